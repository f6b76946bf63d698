/**
 * npm `oidc-provider` with token exchange (RFC 8693) and a client for each way to authenticate: over http, and over
 * https for the client with a certificate.
 */

import { createPublicKey } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import https from "node:https";
import { exportJWK, generateKeyPair, jwtVerify } from "jose";
import { Provider, errors } from "oidc-provider";
import { newCertificate, newKey } from "../servers/openssl.js";
import { createUserTokenMint, gatewayAudience } from "../servers/user-token.js";
import { accessTokenType, tokenExchangeGrant } from "./support.js";

const tokenAlgorithm = "RS256";
const kid = "oidc-provider";

/** Holds what RFC 6749, section 2.3.1, has to encode. */
export const clientSecret = "s3cret:/+ &%=?~";

/** What can be asked for: the identifier of a resource -> its scopes. */
export const resources = { "https://files.example/mcp": ["files.read", "files.write"], "https://mail.example/mcp": ["mail.read"] };

export async function startOidcProvider() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const certificates = makeCertificates();
  // Whoever has no certificate that counts is told so by OAuth and not by TLS.
  const { key, cert, ca } = certificates.server;
  const front = https.createServer({ key, cert, ca, requestCert: true, rejectUnauthorized: false }).listen(0, "127.0.0.1");
  await once(front, "listening");
  const mtlsTokenEndpoint = `https://127.0.0.1:${front.address().port}/token`;

  const { privateKey, publicKey } = await generateKeyPair(tokenAlgorithm, { extractable: true });
  /** Algorithm -> the private key of its client, PEM. */
  const keys = Object.fromEntries(["RS256", "PS256", "ES256"].map((algorithm) => [algorithm, newKey(algorithm === "ES256" ? "EC" : "RSA")]));
  const provider = new Provider(issuer, {
    adapter: memoryAdapter(),
    jwks: { keys: [{ ...(await exportJWK(privateKey)), kid, alg: tokenAlgorithm, use: "sig" }] },
    clients: clients(keys),
    clientDefaults: { grant_types: [tokenExchangeGrant], redirect_uris: [], response_types: [] },
    clientAuthMethods: ["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth", "none"],
    discovery: { mtls_endpoint_aliases: { token_endpoint: mtlsTokenEndpoint } },
    enabledJWA: { clientAuthSigningAlgValues: Object.keys(keys) },
    features: {
      devInteractions: { enabled: false },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        getCertificate: ({ socket }) => socket.getPeerX509Certificate?.()?.toString(),
        certificateAuthorized: ({ socket }) => socket.authorized,
        certificateSubjectMatches: ({ socket }, property, expected) =>
          property === "tls_client_auth_subject_dn" && socket.getPeerX509Certificate().subject === expected,
      },
      resourceIndicators: { enabled: true, getResourceServerInfo: (_context, identifier) => resourceServerInfo(identifier) },
    },
    ttl: { AccessToken: (_context, token) => token.resourceServer.accessTokenTTL },
  });
  provider.registerGrantType(
    tokenExchangeGrant,
    tokenExchange(provider, publicKey),
    ["subject_token", "subject_token_type", "requested_token_type", "resource", "audience", "scope"],
    ["resource", "audience"],
  );
  provider.on("server_error", (_context, error) => console.error("oidc-provider:", error));
  server.on("request", provider.callback());
  front.on("request", provider.callback());

  return {
    issuer,
    tokenEndpoint: `${issuer}/token`,
    mtlsTokenEndpoint,
    jwksUri: `${issuer}/jwks`,
    keys,
    certificates,
    mintUserToken: createUserTokenMint({ issuer, algorithm: tokenAlgorithm, kid, privateKey, publicKey }),
    async close() {
      for (const each of [server, front]) {
        each.close();
        each.closeAllConnections();
        await once(each, "close");
      }
    },
  };
}

/** The clients' ids say how they authenticate. */
function clients(keys) {
  const withKeys = Object.entries(keys).map(([algorithm, pem]) => ({
    client_id: `private_key_jwt-${algorithm}`,
    token_endpoint_auth_method: "private_key_jwt",
    token_endpoint_auth_signing_alg: algorithm,
    jwks: { keys: [{ ...createPublicKey(pem).export({ format: "jwk" }), kid: algorithm, alg: algorithm, use: "sig" }] },
  }));
  const others = [
    { token_endpoint_auth_method: "client_secret_basic", client_secret: clientSecret },
    { token_endpoint_auth_method: "client_secret_post", client_secret: clientSecret },
    { token_endpoint_auth_method: "tls_client_auth", tls_client_auth_subject_dn: "CN=gateway" },
    { token_endpoint_auth_method: "none" },
  ];
  return [...withKeys, ...others.map((client) => ({ client_id: client.token_endpoint_auth_method, ...client }))];
}

function resourceServerInfo(identifier) {
  if (!Object.hasOwn(resources, identifier)) throw new errors.InvalidTarget();
  return {
    audience: identifier,
    scope: resources[identifier].join(" "),
    accessTokenFormat: "jwt",
    accessTokenTTL: 3600,
    jwt: { sign: { alg: tokenAlgorithm } },
  };
}

/** The grant: a user's token for the gateway becomes one for the one resource that `resource` or `audience` names. */
function tokenExchange(provider, publicKey) {
  return async function exchangeToken(context) {
    const { client, params } = context.oidc;
    for (const name of ["subject_token_type", "requested_token_type"]) {
      if (params[name] !== accessTokenType) throw new errors.InvalidRequest(`${name} is not supported`);
    }
    const { payload } = await jwtVerify(params.subject_token, publicKey, { issuer: provider.issuer, audience: gatewayAudience }).catch((cause) => {
      throw new errors.InvalidRequest("subject_token is not valid", undefined, { cause });
    });
    const targets = [params.resource ?? [], params.audience ?? []].flat();
    if (targets.length !== 1) throw new errors.InvalidTarget();
    const [identifier] = targets;
    const offered = resourceServerInfo(identifier);
    const scope = params.scope ?? offered.scope;
    if (!scope.split(" ").every((name) => resources[identifier].includes(name))) throw new errors.InvalidScope("not offered", scope);

    const resourceServer = new provider.ResourceServer(identifier, offered);
    const token = new provider.AccessToken({ client, accountId: payload.sub, scope, resourceServer });
    context.body = {
      access_token: await token.save(),
      issued_token_type: accessTokenType,
      token_type: "Bearer",
      expires_in: token.expiration,
      scope,
    };
  };
}

/** Storage for what oidc-provider has to remember: the client assertions that it has seen. */
function memoryAdapter() {
  const entries = new Map();
  return class MemoryAdapter {
    #name;
    constructor(name) {
      this.#name = name;
    }
    async find(id) {
      return entries.get(`${this.#name} ${id}`);
    }
    async upsert(id, payload) {
      entries.set(`${this.#name} ${id}`, payload);
    }
    async destroy(id) {
      entries.delete(`${this.#name} ${id}`);
    }
  };
}

/** Key, certificate and trusted authority, PEM, as `node:tls` takes them; those of clients by what is right or wrong. */
function makeCertificates() {
  const authorityOf = (name) => {
    const key = newKey("EC");
    return { key, certificate: newCertificate({ key, name, extensions: "basicConstraints = critical,CA:true" }) };
  };
  const [authority, stranger] = [authorityOf("authority"), authorityOf("stranger")];
  const signed = (name, by, extensions) => {
    const key = newKey("EC");
    return { key, cert: newCertificate({ key, name, authority: by, extensions }), ca: authority.certificate };
  };
  return {
    server: signed("127.0.0.1", authority, "subjectAltName = IP:127.0.0.1"),
    client: signed("gateway", authority),
    "the certificate of another subject": signed("mallory", authority),
    "a certificate of another authority": signed("gateway", stranger),
    "no certificate": { ca: authority.certificate },
  };
}

/** A fetch with a client's certificate, as the option `fetch` of an operator has it. */
export function fetchWith(certificate) {
  return async function fetchOverTls(url, init = {}) {
    if (!url.startsWith("https:")) return fetch(url, init);
    const { method = "GET", headers, body, signal } = init;
    const request = https.request(url, { ...certificate, method, headers: Object.fromEntries(new Headers(headers)), signal, agent: false });
    request.end(body);
    const [response] = await once(request, "response");
    const chunks = await response.toArray();
    return new Response(Buffer.concat(chunks), { status: response.statusCode, headers: response.headers });
  };
}
