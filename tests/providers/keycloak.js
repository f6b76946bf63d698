/**
 * Keycloak as a child process, with one realm that is made anew for each start.
 *
 * `KEYCLOAK_FOLDER` is the unpacked distribution, `JAVA` the Java that runs it; `cargo xtask test --servers` sets both.
 * One at a time: its data lies in its own folder.
 */

import assert from "node:assert/strict";
import { createPrivateKey, generateKeyPairSync, randomUUID } from "node:crypto";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { freePort } from "../servers/gateway.js";
import { startServer } from "./child.js";

const realm = "edge";
const password = "correct horse";

/** Two client scopes that the requesters may ask for, and the audience that each brings. */
export const filesScope = "tools.call";
export const filesAudience = "mcp-files";
export const mailScope = "mail.read";
export const mailAudience = "mcp-mail";
/** A client of the realm that no scope of the requester's brings as audience. */
export const otherAudience = "mcp-other";

/** The requester that has a secret. The secret holds what RFC 6749, section 2.3.1, has to encode. */
export const secretClient = { clientId: "gateway", clientSecret: "s3cret:/+ &%=?~" };
/** The requester whose key is known by its certificate. */
export const certificateClient = { clientId: "gateway-certificate", algorithm: "RS256" };
/** The requesters whose keys are known by a key set, one for each algorithm. */
export const keyClients = ["RS256", "PS256", "ES256"].map((algorithm) => ({ clientId: `gateway-${algorithm}`, algorithm }));

/** How users can sign in: the client, and whether its tokens are for the requesters. */
const logins = { login: true, "login-briefly": true, "login-elsewhere": false };

/**
 * @param {object} options
 * @param {{ issuer: string, jwksUri: string, subjectOf: (username: string) => string }} options.partner an issuer
 *   whose assertions the realm takes in the grant of RFC 7523, and what it calls the realm's users
 */
export async function startKeycloak({ partner }) {
  const folder = process.env.KEYCLOAK_FOLDER;
  const origin = `http://127.0.0.1:${await freePort()}`;
  const issuer = `${origin}/realms/${realm}`;
  const administrator = { username: "administrator", password: randomUUID() };
  const users = { ada: randomUUID(), grace: randomUUID() };
  const keys = Object.fromEntries(keyClients.map((client) => [client.clientId, newKey(client)]));

  const data = join(folder, "data");
  await rm(data, { recursive: true, force: true });
  await mkdir(join(data, "import"), { recursive: true });
  await writeFile(join(data, "import", `${realm}.json`), JSON.stringify(realmDescription({ keys, users, partner })));

  const { close } = await startServer({
    name: "Keycloak",
    program: join(folder, "bin", process.platform === "win32" ? "kc.bat" : "kc.sh"),
    args: [
      "start-dev",
      "--import-realm",
      "--http-host=127.0.0.1",
      `--http-port=${new URL(origin).port}`,
      "--cache=local",
      "--features=jwt-authorization-grant,identity-assertion-jwt",
      "--log-level=warn",
    ],
    env: {
      JAVA_OPTS_KC_HEAP: "-Xms64m -Xmx512m",
      KC_BOOTSTRAP_ADMIN_USERNAME: administrator.username,
      KC_BOOTSTRAP_ADMIN_PASSWORD: administrator.password,
    },
    readyUrl: `${issuer}/.well-known/openid-configuration`,
  });

  const tokenEndpoint = `${issuer}/protocol/openid-connect/token`;
  return {
    issuer,
    tokenEndpoint,
    jwksUri: `${issuer}/protocol/openid-connect/certs`,
    /** User name -> `sub`. */
    users,
    /** Client id -> its private key: PEM, JWK, and the `kid` of its public half. */
    keys,

    /**
     * A user's tokens.
     *
     * @param {"ada" | "grace"} username
     * @param {{ clientId?: keyof typeof logins, scope?: string }} [options] "login-briefly" gives tokens that last a
     *   second, "login-elsewhere" those that are not for the requesters
     * @returns {Promise<{ access_token: string, id_token?: string }>} an ID token with the scope "openid"
     */
    signIn(username, { clientId = "login", scope } = {}) {
      const form = { grant_type: "password", client_id: clientId, username, password, ...(scope && { scope }) };
      return postForm(tokenEndpoint, form);
    },

    async revoke(token, clientId = "login") {
      await postForm(`${issuer}/protocol/openid-connect/revoke`, { token, client_id: clientId });
    },

    /** A new key of the certificate's client: private key and certificate, PEM. Keycloak makes and knows both. */
    async newCertificate() {
      const form = { grant_type: "password", client_id: "admin-cli", ...administrator };
      const { access_token: token } = await postForm(`${origin}/realms/master/protocol/openid-connect/token`, form);
      const headers = { Authorization: `Bearer ${token}` };
      const clients = `${origin}/admin/realms/${realm}/clients`;
      const [{ id }] = await json(await fetch(`${clients}?clientId=${certificateClient.clientId}`, { headers }));
      const made = await json(await fetch(`${clients}/${id}/certificates/jwt.credential/generate`, { method: "POST", headers }));
      const key = createPrivateKey({ key: Buffer.from(made.privateKey, "base64"), format: "der", type: "pkcs1" });
      return {
        privateKey: key.export({ format: "pem", type: "pkcs8" }),
        certificate: `-----BEGIN CERTIFICATE-----\n${made.certificate}\n-----END CERTIFICATE-----\n`,
      };
    },

    close,
  };
}

async function postForm(url, form) {
  return json(await fetch(url, { method: "POST", body: new URLSearchParams(form) }));
}

async function json(response) {
  const text = await response.text();
  assert.ok(response.ok, `${response.url} answered ${response.status} ${text}`);
  return text === "" ? {} : JSON.parse(text);
}

function newKey({ clientId, algorithm }) {
  const { privateKey, publicKey } =
    algorithm === "ES256" ? generateKeyPairSync("ec", { namedCurve: "P-256" }) : generateKeyPairSync("rsa", { modulusLength: 2048 });
  const kid = `key of ${clientId}`;
  return {
    kid,
    pem: privateKey.export({ type: "pkcs8", format: "pem" }),
    jwk: privateKey.export({ format: "jwk" }),
    publicJwk: { ...publicKey.export({ format: "jwk" }), kid, use: "sig", alg: algorithm },
  };
}

function realmDescription({ keys, users, partner }) {
  const requesters = [
    requester(secretClient.clientId, { clientAuthenticatorType: "client-secret", secret: secretClient.clientSecret }),
    requester(certificateClient.clientId, keyAuthentication(certificateClient.algorithm)),
    ...keyClients.map(({ clientId, algorithm }) => requester(clientId, keyAuthentication(algorithm, keys[clientId].publicJwk))),
  ];
  const requesterIds = requesters.map(({ clientId }) => clientId);
  return {
    realm,
    enabled: true,
    sslRequired: "none",
    accessTokenLifespan: 600,
    // Scopes named here replace Keycloak's own, so what gives a token its "sub" has to be among them.
    clientScopes: [
      clientScope("basic", [subjectMapper], { "include.in.token.scope": "false" }),
      clientScope(filesScope, [audienceMapper(filesAudience)]),
      clientScope(mailScope, [audienceMapper(mailAudience)]),
    ],
    clients: [
      ...[filesAudience, mailAudience, otherAudience].map((clientId) => ({ clientId, bearerOnly: true })),
      ...Object.entries(logins).map(([clientId, forRequesters]) => loginClient(clientId, forRequesters ? requesterIds : [otherAudience])),
      ...requesters,
    ],
    users: Object.entries(users).map(([username, id]) => ({
      id,
      username,
      enabled: true,
      email: `${username}@example.com`,
      emailVerified: true,
      firstName: username,
      lastName: "Example",
      credentials: [{ type: "password", value: password, temporary: false }],
      federatedIdentities: [{ identityProvider: "partner", userId: partner.subjectOf(username), userName: username }],
    })),
    identityProviders: [{
      alias: "partner",
      providerId: "jwt-authorization-grant",
      enabled: true,
      config: {
        issuer: partner.issuer,
        useJwksUrl: "true",
        jwksUrl: partner.jwksUri,
        jwtAuthorizationGrantEnabled: "true",
      },
    }],
  };
}

function clientScope(name, protocolMappers, attributes = { "include.in.token.scope": "true" }) {
  return { name, protocol: "openid-connect", attributes, protocolMappers };
}

const subjectMapper = {
  name: "subject",
  protocol: "openid-connect",
  protocolMapper: "oidc-sub-mapper",
  config: { "access.token.claim": "true" },
};

function audienceMapper(clientId) {
  return {
    name: `audience ${clientId}`,
    protocol: "openid-connect",
    protocolMapper: "oidc-audience-mapper",
    config: { "included.client.audience": clientId, "access.token.claim": "true" },
  };
}

function loginClient(clientId, audiences) {
  return {
    clientId,
    publicClient: true,
    standardFlowEnabled: false,
    directAccessGrantsEnabled: true,
    attributes: clientId === "login-briefly" ? { "access.token.lifespan": "1" } : {},
    defaultClientScopes: ["basic"],
    protocolMappers: audiences.map(audienceMapper),
  };
}

function requester(clientId, { attributes, ...authentication }) {
  return {
    clientId,
    publicClient: false,
    standardFlowEnabled: false,
    defaultClientScopes: ["basic"],
    optionalClientScopes: [filesScope, mailScope],
    ...authentication,
    attributes: {
      "standard.token.exchange.enabled": "true",
      "oauth2.jwt.authorization.grant.enabled": "true",
      "oauth2.jwt.authorization.grant.idp": "partner",
      ...attributes,
    },
  };
}

function keyAuthentication(algorithm, publicJwk) {
  const keySet = publicJwk && { "use.jwks.string": "true", "jwks.string": JSON.stringify({ keys: [publicJwk] }) };
  return { clientAuthenticatorType: "client-jwt", attributes: { "token.endpoint.auth.signing.alg": algorithm, ...keySet } };
}
