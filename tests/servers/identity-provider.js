/** An identity provider on npm `oidc-provider` that speaks the on-behalf-of flow as Microsoft Entra ID does. */

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { calculateJwkThumbprint, exportJWK, generateKeyPair } from "jose";
import { Provider } from "oidc-provider";
import { entraCode, entraError } from "./entra-error.js";
import { answerFault, createFaultSwitch } from "./fault-switch.js";
import { grantParameters, grantType, onBehalfOfGrant } from "./on-behalf-of.js";
import { createUserTokenMint } from "./user-token.js";

/** The gateway's registration. The secret holds what RFC 6749, section 2.3.1, has to encode. */
export const gatewayClient = { clientId: "gateway", clientSecret: "s3cret:/+ &%=?~" };

/**
 * @typedef {object} TokenRequest one request at the token endpoint; the assertion itself is not kept
 * @property {number} at ms since epoch
 * @property {string} [grantType]
 * @property {string} [scope]
 * @property {string} [claims]
 * @property {string} [clientId]
 * @property {"client_secret_basic" | "client_secret_post" | "none"} clientAuthentication
 * @property {string} [assertionSha256] hex
 * @property {import("./fault-switch.js").Fault} [fault] what was answered instead of the truth
 */

/**
 * @param {object} [options]
 * @param {number} [options.port] default 0, any free port
 * @param {"RS256" | "ES256"} [options.algorithm] of every token; Entra's is RS256
 * @param {Record<string, string[]>} [options.resources] identifier URI of a resource -> the scopes it offers
 * @param {number} [options.tokenLifetimeSeconds] of exchanged tokens
 */
export async function startIdentityProvider({
  port = 0,
  algorithm = "RS256",
  resources = { "api://mcp-files": ["tools.call", "tools.read"], "api://mcp-mail": ["mail.read"] },
  tokenLifetimeSeconds = 3600,
} = {}) {
  const server = createServer();
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${server.address().port}`;

  const { privateKey, publicKey } = await generateKeyPair(algorithm, { extractable: true });
  const jwk = await exportJWK(privateKey);
  const kid = await calculateJwkThumbprint(jwk);

  const resourceServerInfo = (identifier) => ({
    audience: identifier,
    scope: resources[identifier].join(" "),
    accessTokenFormat: "jwt",
    accessTokenTTL: tokenLifetimeSeconds,
    jwt: { sign: { alg: algorithm } },
  });
  const provider = new Provider(issuer, {
    adapter: NoStorage,
    jwks: { keys: [{ ...jwk, kid, alg: algorithm, use: "sig" }] },
    clients: [{
      client_id: gatewayClient.clientId,
      client_secret: gatewayClient.clientSecret,
      grant_types: [grantType],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: "client_secret_post",
    }],
    clientDefaults: { id_token_signed_response_alg: algorithm },
    clientAuthMethods: ["client_secret_basic", "client_secret_post"],
    features: {
      devInteractions: { enabled: false },
      resourceIndicators: { enabled: true, getResourceServerInfo: (_context, identifier) => resourceServerInfo(identifier) },
    },
    formats: { customizers: { jwt: entraClaims } },
    ttl: { AccessToken: (_context, token) => token.resourceServer.accessTokenTTL },
  });
  provider.registerGrantType(
    grantType,
    onBehalfOfGrant({ provider, resources, resourceServerInfo, publicKey, algorithm }),
    grantParameters,
  );
  provider.on("grant.error", (context, error) => {
    const { status, body } = entraError(error.code ?? entraCode(error), {
      detail: error.error_detail,
      correlationId: context.get("client-request-id") || undefined,
    });
    context.status = status;
    context.body = body;
  });
  provider.on("server_error", (_context, error) => console.error("identity provider:", error));
  // A caller that goes away, or that a fault cuts off, is what many tests want.
  provider.on("error", (error) => {
    if (!["ECONNRESET", "EPIPE", "ERR_STREAM_PREMATURE_CLOSE"].includes(error.code)) console.error("identity provider:", error);
  });

  const faults = createFaultSwitch();
  /** @type {TokenRequest[]} */
  const tokenRequests = [];
  provider.use(async (context, next) => {
    if (context.path === "/jwks" || context.path.startsWith("/.well-known/")) {
      return faults.keys === null ? next() : answerFault(context, faults.keys);
    }
    if (context.path === "/redirected") faults.redirectsFollowed += 1;
    if (context.path !== "/token" || context.method !== "POST") return next();

    const fault = faults.take();
    const request = { at: Date.now(), fault };
    tokenRequests.push(request);
    const truthful = fault === undefined || fault.members !== undefined;
    // The body can be read once only: by oidc-provider, or here.
    if (truthful) await next();
    const parameters = truthful ? context.oidc.body : Object.fromEntries(new URLSearchParams(await text(context.req)));
    Object.assign(request, describeTokenRequest(context.get("authorization"), parameters ?? {}));
    if (faults.delayMs) await sleep(faults.delayMs);
    if (!truthful) answerFault(context, fault);
    else if (fault) context.body = { ...context.body, ...fault.members };
  });
  server.on("request", provider.callback());

  return {
    issuer,
    tokenEndpoint: `${issuer}/token`,
    jwksUri: `${issuer}/jwks`,
    mintUserToken: createUserTokenMint({ issuer, algorithm, kid, privateKey, publicKey }),
    tokenRequests,
    faults,
    async close() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

/** Access tokens are self-contained and clients are configured, so there is nothing to store. */
class NoStorage {
  async find() {}
  async upsert() {}
  async destroy() {}
}

/** Entra writes the scopes of a delegated token as `scp` and the client as `azp`. */
function entraClaims(_context, _token, { payload }) {
  payload.scp = payload.scope;
  payload.azp = payload.client_id;
  delete payload.scope;
  delete payload.client_id;
}

function describeTokenRequest(authorization, parameters) {
  let clientId = parameters.client_id;
  let clientAuthentication = parameters.client_secret ? "client_secret_post" : "none";
  if (authorization.toLowerCase().startsWith("basic ")) {
    clientAuthentication = "client_secret_basic";
    const [encodedId] = Buffer.from(authorization.slice(6), "base64").toString().split(":");
    clientId = new URLSearchParams(`id=${encodedId}`).get("id");
  }
  return {
    grantType: parameters.grant_type,
    scope: parameters.scope,
    claims: parameters.claims,
    clientId,
    clientAuthentication,
    assertionSha256: parameters.assertion && createHash("sha256").update(String(parameters.assertion)).digest("hex"),
  };
}
