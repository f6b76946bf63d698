/**
 * An identity provider on npm `oidc-provider` with token exchange (RFC 8693) and a client for every way to authenticate
 * one. Beside its plain address it listens by TLS, where clients show certificates (RFC 8705).
 */

import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { text } from "node:stream/consumers";
import { calculateJwkThumbprint, decodeJwt, exportJWK, generateKeyPair, importPKCS8, jwtVerify } from "jose";
import { Provider, errors } from "oidc-provider";
import { newCertificate, newKey } from "../servers/openssl.js";
import { createUserTokenMint, gatewayAudience } from "../servers/user-token.js";

const grantType = "urn:ietf:params:oauth:grant-type:token-exchange";
const accessTokenType = "urn:ietf:params:oauth:token-type:access_token";
const algorithm = "ES256";

/** The resource that tokens are made for, and what may be done there. */
export const files = { resource: "https://files.example/mcp", scopes: ["files.read", "files.write"] };

/** Has to be escaped in a form and in Basic. */
export const clientSecret = "s3cret:/+ &%=?~ that is long enough";

/** What the certificate of the client `tls_client_auth` is for. */
const certificateName = "gateway.example";

/**
 * @typedef {object} SeenTokenRequest
 * @property {string} [method] how the client authenticated, as oidc-provider saw it; `undefined` where it did not
 * @property {boolean} isTls
 * @property {URLSearchParams} form
 * @property {string} [jti] of the client assertion
 * @property {number} status what was answered
 */

export async function startOidcProvider() {
  const authority = newAuthority();
  const server = createServer();
  const tlsServer = createTlsServer({ ...newIdentity(authority, "127.0.0.1", "IP:127.0.0.1"), ca: authority.certificate, requestCert: true, rejectUnauthorized: false });
  for (const each of [server, tlsServer]) {
    each.listen(0, "127.0.0.1");
    await once(each, "listening");
  }
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const { privateKey, publicKey } = await generateKeyPair(algorithm, { extractable: true });
  const jwk = await exportJWK(privateKey);
  const kid = await calculateJwkThumbprint(jwk);
  const keys = { RS256: newKey("RSA"), PS256: newKey("RSA"), ES256: newKey("EC"), federated: newKey("EC") };

  const provider = new Provider(issuer, {
    adapter: ReplaysOnly,
    jwks: { keys: [{ ...jwk, kid, alg: algorithm, use: "sig" }] },
    clients: await clients(keys),
    clientDefaults: {
      grant_types: [grantType], redirect_uris: [], response_types: [], id_token_signed_response_alg: algorithm,
    },
    clientAuthMethods: ["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth", "none"],
    features: {
      devInteractions: { enabled: false },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        getCertificate: ({ socket }) => peerCertificate(socket)?.toString(),
        certificateAuthorized: ({ socket }) => socket.authorized === true,
        certificateSubjectMatches: ({ socket }, _property, expected) => peerCertificate(socket).subjectAltName === `DNS:${expected}`,
      },
      resourceIndicators: { enabled: true, getResourceServerInfo: () => resourceServerInfo },
    },
    discovery: { mtls_endpoint_aliases: { token_endpoint: `https://127.0.0.1:${tlsServer.address().port}/token` } },
    ttl: { AccessToken: 3600 },
  });
  provider.registerGrantType(grantType, tokenExchange({ provider, publicKey }), ["subject_token", "subject_token_type", "requested_token_type", "resource", "scope"]);
  provider.on("server_error", (_context, error) => console.error("oidc-provider:", error));

  /** @type {SeenTokenRequest[]} */
  const tokenRequests = [];
  const faults = [];
  provider.use(async (context, next) => {
    if (context.path !== "/token") return next();
    const fault = faults.shift();
    // The body can be read once only: by oidc-provider, or here.
    if (fault) {
      context.request.body = await text(context.req);
      context.status = fault;
    } else await next();
    const form = new URLSearchParams(fault ? context.request.body : context.oidc.body);
    const jwt = form.get("client_assertion");
    tokenRequests.push({
      method: context.status === 200 ? context.oidc.client.clientAuthMethod : undefined,
      isTls: context.socket.encrypted === true,
      form,
      jti: jwt === null ? undefined : decodeJwt(jwt).jti,
      status: context.status,
    });
  });
  for (const each of [server, tlsServer]) each.on("request", provider.callback());

  return {
    issuer,
    tokenEndpoint: `${issuer}/token`,
    jwksUri: `${issuer}/jwks`,
    keys,
    tokenRequests,
    /** HTTP statuses that the next token requests are answered with instead of the truth. */
    faults,
    mintUserToken: createUserTokenMint({ issuer, algorithm, kid, privateKey, publicKey }),
    /** What a client by TLS has: whom it trusts, its key, and a certificate, the registered one by default. */
    newTlsIdentity: (name = certificateName) => ({ ca: authority.certificate, ...newIdentity(authority, "gateway", `DNS:${name}`) }),
    newStranger: () => ({ ca: authority.certificate, ...newIdentity(newAuthority(), "gateway", `DNS:${certificateName}`) }),
    async close() {
      for (const each of [server, tlsServer]) {
        each.close();
        each.closeAllConnections();
        await once(each, "close");
      }
    },
  };
}

/** One for each method, called like it, and one for each algorithm. */
async function clients(keys) {
  const withSecret = (method) => ({ client_id: method, client_secret: clientSecret, token_endpoint_auth_method: method });
  const withKey = async (name, alg) => ({
    client_id: name,
    token_endpoint_auth_method: "private_key_jwt",
    token_endpoint_auth_signing_alg: alg,
    jwks: { keys: [await publicJwk(keys[name], alg)] },
  });
  return [
    withSecret("client_secret_basic"),
    withSecret("client_secret_post"),
    { client_id: "none", token_endpoint_auth_method: "none" },
    { client_id: "tls_client_auth", token_endpoint_auth_method: "tls_client_auth", tls_client_auth_san_dns: certificateName },
    await withKey("RS256", "RS256"),
    await withKey("PS256", "PS256"),
    await withKey("ES256", "ES256"),
    await withKey("federated", "ES256"),
  ];
}

async function publicJwk(pem, alg) {
  const { kty, n, e, crv, x, y } = await exportJWK(await importPKCS8(pem, alg, { extractable: true }));
  return JSON.parse(JSON.stringify({ kty, n, e, crv, x, y, alg, use: "sig" }));
}

const resourceServerInfo = {
  audience: files.resource,
  scope: files.scopes.join(" "),
  accessTokenFormat: "jwt",
  accessTokenTTL: 3600,
  jwt: { sign: { alg: algorithm } },
};

/** RFC 8693 for users' own access tokens: made here, for the gateway. */
function tokenExchange({ provider, publicKey }) {
  return async function handleTokenExchange(context) {
    const { client, params } = context.oidc;
    if (params.subject_token_type !== accessTokenType) throw new errors.InvalidRequest("unknown subject_token_type");
    if (params.requested_token_type !== accessTokenType) throw new errors.InvalidRequest("unknown requested_token_type");
    if (params.resource !== files.resource) throw new errors.InvalidTarget();
    const scopes = (params.scope ?? "").split(" ").filter(Boolean);
    if (!scopes.every((scope) => files.scopes.includes(scope))) throw new errors.InvalidScope("unknown scope", params.scope);
    const expected = { issuer: provider.issuer, audience: gatewayAudience, algorithms: [algorithm], requiredClaims: ["sub", "exp"] };
    const { payload } = await jwtVerify(params.subject_token, publicKey, expected).catch(() => {
      throw new errors.InvalidGrant("subject_token is invalid");
    });
    const token = new provider.AccessToken({
      client,
      accountId: payload.sub,
      scope: scopes.join(" "),
      resourceServer: new provider.ResourceServer(files.resource, resourceServerInfo),
    });
    context.body = {
      access_token: await token.save(),
      issued_token_type: accessTokenType,
      token_type: "Bearer",
      expires_in: token.expiration,
      scope: scopes.join(" "),
    };
  };
}

/** Tokens are self-contained and clients configured: what is kept is which client assertions were seen. */
class ReplaysOnly {
  #seen = new Map();

  constructor(name) {
    this.name = name;
  }

  async find(id) {
    return this.#seen.get(id);
  }

  async upsert(id, payload) {
    if (this.name === "ReplayDetection") this.#seen.set(id, payload);
  }

  async destroy() {}
}

/** The certificate that a client has shown, if there is one. */
function peerCertificate(socket) {
  const { raw } = socket.getPeerCertificate?.() ?? {};
  return raw && new X509Certificate(raw);
}

function newAuthority() {
  const key = newKey("EC");
  return { key, certificate: newCertificate({ key, name: "authority", extensions: "basicConstraints = critical,CA:true" }) };
}

function newIdentity(authority, name, alternativeName) {
  const key = newKey("EC");
  return { key, cert: newCertificate({ key, name, authority, extensions: `subjectAltName = ${alternativeName}` }) };
}
