/**
 * Keycloak as a child process, with one realm that is made anew for each start.
 *
 * `KEYCLOAK_FOLDER` is the unpacked distribution, `JAVA` the Java that runs it; `cargo xtask test --servers` sets both.
 */

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { freePort } from "../servers/gateway.js";
import { startServer } from "./child.js";

const realm = "edge";
/** Has to be escaped in a form and in Basic. */
export const clientSecret = "s3cret:/+ &%=?~";
export const audience = "mcp-files";
/** A client scope of the gateways; it brings the audience "mcp-files". */
export const scope = "tools.call";
/** Another one, with the audience "mcp-mail". */
export const mailScope = "mail.read";

/** The requester in its registrations, one for each way to authenticate. */
const requesters = {
  gateway: {},
  "gateway-RS256": { keyType: "rsa", options: { modulusLength: 2048 } },
  "gateway-PS256": { keyType: "rsa", options: { modulusLength: 2048 } },
  "gateway-ES256": { keyType: "ec", options: { namedCurve: "P-256" } },
};

/**
 * @param {object} [options]
 * @param {string} [options.trustedIssuer] whose assertions the realm takes in the grant of RFC 7523
 * @param {string} [options.trustedKeysUrl] where that issuer's keys are
 */
export async function startKeycloak({ trustedIssuer = "http://127.0.0.1:9/none", trustedKeysUrl = `${trustedIssuer}/keys` } = {}) {
  const folder = process.env.KEYCLOAK_FOLDER;
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const issuer = `${origin}/realms/${realm}`;
  const administrator = { username: "administrator", password: randomUUID() };
  const keys = new Map();
  for (const [clientId, { keyType, options }] of Object.entries(requesters)) {
    if (keyType) keys.set(clientId, newKey(keyType, options, clientId));
  }

  const data = join(folder, "data");
  await rm(data, { recursive: true, force: true });
  await mkdir(join(data, "import"), { recursive: true });
  const description = realmDescription({ keys, trustedIssuer, trustedKeysUrl });
  await writeFile(join(data, "import", `${realm}.json`), JSON.stringify(description));

  const windows = process.platform === "win32";
  const { close } = await startServer({
    name: "Keycloak",
    program: join(folder, "bin", windows ? "kc.bat" : "kc.sh"),
    args: [
      "start-dev",
      "--import-realm",
      "--http-host=127.0.0.1",
      `--http-port=${port}`,
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
    revocationEndpoint: `${issuer}/protocol/openid-connect/revoke`,
    /** The private key (PEM, PKCS#8) of a requester that has one. */
    privateKey: (clientId) => keys.get(clientId).privateKey,
    administrator, origin,
    close,
  };
}

function newKey(type, options, kid) {
  const { privateKey, publicKey } = generateKeyPairSync(type, options);
  return {
    privateKey: privateKey.export({ type: "pkcs8", format: "pem" }),
    jwk: { ...publicKey.export({ format: "jwk" }), kid, use: "sig" },
  };
}

function realmDescription({ keys, trustedIssuer, trustedKeysUrl }) {
  const requesterIds = [...keys.keys(), "gateway"];
  return {
    realm,
    enabled: true,
    sslRequired: "none",
    accessTokenLifespan: 600,
    // Scopes named here replace Keycloak's own, so what gives a token its "sub" is among them.
    clientScopes: [basicScope, clientScope(scope, audience), clientScope(mailScope, "mcp-mail"), clientScope("no.audience")],
    clients: [
      { clientId: audience, bearerOnly: true },
      { clientId: "mcp-mail", bearerOnly: true },
      { clientId: "mcp-other", bearerOnly: true },
      loginClient("login", requesterIds),
      loginClient("login-elsewhere", ["mcp-other"]),
      loginClient("login-briefly", requesterIds, { "access.token.lifespan": "1" }),
      ...requesterIds.map((clientId) => requesterClient(clientId, keys.get(clientId)?.jwk)),
    ],
    users: ["ada", "grace"].map(userDescription),
    identityProviders: [{
      alias: "partner",
      providerId: "jwt-authorization-grant",
      enabled: true,
      config: {
        issuer: trustedIssuer,
        useJwksUrl: "true",
        jwksUrl: trustedKeysUrl,
        jwtAuthorizationGrantEnabled: "true",
      },
    }],
  };
}

const basicScope = {
  name: "basic",
  protocol: "openid-connect",
  attributes: { "include.in.token.scope": "false" },
  protocolMappers: [{
    name: "sub",
    protocol: "openid-connect",
    protocolMapper: "oidc-sub-mapper",
    config: { "access.token.claim": "true", "introspection.token.claim": "true" },
  }],
};

function clientScope(name, audienceClient) {
  return {
    name,
    protocol: "openid-connect",
    attributes: { "include.in.token.scope": "true" },
    protocolMappers: audienceClient ? [audienceMapper(audienceClient)] : [],
  };
}

function audienceMapper(clientId) {
  return {
    name: `audience ${clientId}`,
    protocol: "openid-connect",
    protocolMapper: "oidc-audience-mapper",
    config: { "included.client.audience": clientId, "access.token.claim": "true", "introspection.token.claim": "true" },
  };
}

/** Where users sign in, here by password: its tokens are for the audiences named. */
function loginClient(clientId, audiences, attributes = {}) {
  return {
    clientId,
    publicClient: true,
    standardFlowEnabled: false,
    directAccessGrantsEnabled: true,
    fullScopeAllowed: false,
    attributes,
    defaultClientScopes: ["basic"],
    protocolMappers: audiences.map(audienceMapper),
  };
}

function requesterClient(clientId, jwk) {
  const credentials = jwk
    ? {
      clientAuthenticatorType: "client-jwt",
      attributes: {
        "use.jwks.string": "true",
        "jwks.string": JSON.stringify({ keys: [jwk] }),
        "token.endpoint.auth.signing.alg": clientId.slice(-5),
      },
    }
    : { clientAuthenticatorType: "client-secret", secret: clientSecret };
  return {
    clientId,
    publicClient: false,
    standardFlowEnabled: false,
    fullScopeAllowed: false,
    defaultClientScopes: ["basic"],
    optionalClientScopes: [scope, mailScope, "no.audience"],
    ...credentials,
    attributes: {
      "standard.token.exchange.enabled": "true",
      "oauth2.jwt.authorization.grant.enabled": "true",
      "oauth2.jwt.authorization.grant.idp": "partner",
      ...credentials.attributes,
    },
  };
}

function userDescription(username) {
  return {
    id: userIds[username],
    username,
    enabled: true,
    email: `${username}@example.com`,
    emailVerified: true,
    firstName: username,
    lastName: "Example",
    credentials: [{ type: "password", value: password, temporary: false }],
    federatedIdentities: [{ identityProvider: "partner", userId: `partner-${username}`, userName: username }],
  };
}
export const password = "pass";
export const userIds = { ada: randomUUID(), grace: randomUUID() };
