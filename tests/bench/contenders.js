/** The exchanges that the benchmark compares: ours, what nobody can be faster than, and what people use today. */

import { createHash, randomBytes } from "node:crypto";
import { ConfidentialClientApplication } from "@azure/msal-node";
import { TokenExchanger } from "obo-edge";
import * as openid from "openid-client";

const scope = "api://mcp-files/tools.call";
const clientId = "gateway";
const clientSecret = "secret-of-the-gateway";
const tenant = "11111111-2222-3333-4444-555555555555";
const authority = `https://login.microsoftonline.com/${tenant}`;
const tokenUrl = `${authority}/oauth2/v2.0/token`;
const grantType = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/** How long the token endpoint in memory takes, in milliseconds. */
const latencyMs = 20;

/** A JWT of `bytes` bytes, as long as Entra's usually are. Nobody verifies it here. */
export function userToken(bytes = 1500) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const header = part({ typ: "JWT", alg: "RS256", kid: randomBytes(20).toString("base64url") });
  const signature = randomBytes(256).toString("base64url");
  const claims = { aud: clientId, iss: `${authority}/v2.0`, exp: Math.floor(Date.now() / 1000) + 3600, sub: randomBytes(16).toString("hex"), scp: "mcp.access", groups: "" };
  const room = bytes - header.length - signature.length - 2 - part(claims).length;
  claims.groups = randomBytes(room).toString("hex").slice(0, Math.floor((room * 3) / 4));
  return `${header}.${part(claims)}.${signature}`;
}

/** What a token endpoint answers for an assertion; the token names the assertion, so that a mix-up shows. */
function tokenMembers(assertion) {
  return { token_type: "Bearer", scope, expires_in: 3600, ext_expires_in: 3600, access_token: tokenOf(assertion) };
}

/** The token that has to come out for this assertion, of about the size of a real one. */
export function tokenOf(assertion) {
  return `${assertion.slice(0, 1200)}.exchanged`;
}

function tokenEndpoint() {
  const endpoint = {
    requests: 0,
    async fetch(_url, init) {
      endpoint.requests += 1;
      await new Promise((resolve) => setTimeout(resolve, latencyMs));
      return Response.json(tokenMembers(new URLSearchParams(init.body.toString()).get("assertion")));
    },
  };
  return endpoint;
}

/** Ours: `exchange` of npm `obo-edge`. */
export function oboEdge() {
  const endpoint = tokenEndpoint();
  const exchanger = new TokenExchanger({
    tokenEndpoint: tokenUrl,
    clientId,
    clientAuthentication: { method: "client_secret_post", clientSecret },
    fetch: endpoint.fetch,
  });
  return {
    exchange: async (assertion) => (await exchanger.exchange({ assertion, scopes: scope })).accessToken,
    requests: () => endpoint.requests,
  };
}

/** The floor: one SHA-256 of the assertion and one look-up. It holds what it is told, and exchanges nothing. */
export function floor() {
  const tokens = new Map();
  const keyOf = (assertion) => createHash("sha256").update(assertion).digest("base64");
  return {
    lookUp: (assertion) => tokens.get(keyOf(assertion)),
    fill: (assertion) => void tokens.set(keyOf(assertion), tokenOf(assertion)),
  };
}

/** MSAL Node's `acquireTokenOnBehalfOf`, its network replaced. */
export function msalNode() {
  let requests = 0;
  const network = {
    // Discovery is configured below, so that nothing is to be fetched.
    sendGetRequestAsync: async (url) => {
      throw new Error(`MSAL asked for ${url}`);
    },
    async sendPostRequestAsync(_url, { body }) {
      requests += 1;
      await new Promise((resolve) => setTimeout(resolve, latencyMs));
      return { status: 200, headers: {}, body: { ...tokenMembers(new URLSearchParams(body).get("assertion")), ...accountMembers() } };
    },
  };
  const application = new ConfidentialClientApplication({
    auth: {
      clientId,
      clientSecret,
      authority,
      knownAuthorities: ["login.microsoftonline.com"],
      cloudDiscoveryMetadata: JSON.stringify({
        tenant_discovery_endpoint: `${authority}/v2.0/.well-known/openid-configuration`,
        metadata: [{ preferred_network: "login.microsoftonline.com", preferred_cache: "login.microsoftonline.com", aliases: ["login.microsoftonline.com"] }],
      }),
      authorityMetadata: JSON.stringify({
        issuer: `${authority}/v2.0`,
        authorization_endpoint: `${authority}/oauth2/v2.0/authorize`,
        token_endpoint: tokenUrl,
        end_session_endpoint: `${authority}/oauth2/v2.0/logout`,
        jwks_uri: `${authority}/discovery/v2.0/keys`,
      }),
    },
    system: { networkClient: network },
  });
  return {
    async exchange(assertion) {
      const result = await application.acquireTokenOnBehalfOf({ oboAssertion: assertion, scopes: [scope] });
      return result.accessToken;
    },
    requests: () => requests,
  };
}

/** MSAL keeps a token under its account, which it reads from these. */
function accountMembers() {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const oid = randomBytes(16).toString("hex");
  const idToken = { oid, sub: oid, tid: tenant, iss: `${authority}/v2.0`, aud: clientId, preferred_username: "ada@example.com", exp: Math.floor(Date.now() / 1000) + 3600, iat: 0, ver: "2.0" };
  return {
    id_token: `${part({ alg: "none" })}.${part(idToken)}.`,
    client_info: part({ uid: oid, utid: tenant }),
  };
}

/**
 * The usual JavaScript answer: openid-client's grant, the token in Workers KV as it comes, a Map of what is under
 * way. The KV is a Map behind promises, so that its network costs nothing here; nothing is sealed, retried,
 * classified or kept in memory, and a request that is cancelled leaves its key dead.
 */
export function openidClient() {
  const endpoint = tokenEndpoint();
  const configuration = new openid.Configuration({ issuer: `${authority}/v2.0`, token_endpoint: tokenUrl }, clientId, clientSecret);
  configuration[openid.customFetch] = endpoint.fetch;
  const entries = new Map();
  const kv = {
    get: async (name, type) => (type === "json" ? JSON.parse(entries.get(name) ?? "null") : (entries.get(name) ?? null)),
    put: async (name, value) => void entries.set(name, value),
  };
  const underWay = new Map();

  async function exchange(assertion) {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${assertion} ${scope}`));
    const name = `obo:${Buffer.from(digest).toString("hex")}`;
    const cached = await kv.get(name, "json");
    if (cached && cached.expiresAt > Date.now() + 300_000) return cached.accessToken;
    let flight = underWay.get(name);
    if (flight === undefined) {
      flight = request(assertion, name).finally(() => underWay.delete(name));
      underWay.set(name, flight);
    }
    return flight;
  }

  async function request(assertion, name) {
    const response = await openid.genericGrantRequest(configuration, grantType, { assertion, scope, requested_token_use: "on_behalf_of" });
    const expiresAt = Date.now() + response.expires_in * 1000;
    await kv.put(name, JSON.stringify({ accessToken: response.access_token, expiresAt }), { expirationTtl: response.expires_in });
    return response.access_token;
  }

  return { exchange, requests: () => endpoint.requests };
}
