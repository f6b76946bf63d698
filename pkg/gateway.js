// The gateway: carries out what `src/gateway` decides. One way: route, verify, exchange, forward, answer.
import { createLocalJWKSet, decodeProtectedHeader, errors, jwtVerify } from "jose";
import { ExchangeError } from "./error.js";
import { TokenExchanger, internal } from "./host.js";
import { guarded, living, wasm } from "./instance.js";
import { IssuerKeys } from "./keys.js";

/** Clocks of issuers and edges differ by this much, in seconds. */
const CLOCK_TOLERANCE_SECONDS = 30;

/** The longest body that is kept to be sent once more, in bytes. */
const MAX_RESENT_BYTES = 1024 * 1024;

/** What jose calls an error that is the token's; any other is the keys', and says nothing about the token. */
const TOKEN_FAULT = /^ERR_(JWT|JWS|JOSE_ALG_NOT_ALLOWED|JOSE_NOT_SUPPORTED|JWKS_NO_MATCHING_KEY|JWKS_MULTIPLE_MATCHING_KEYS)/;

/**
 * A gateway in front of MCP servers: `fetch(request, ctx)` verifies the user's token, exchanges it and forwards
 * the request with the exchanged one. `config.exchanger` are the options of its TokenExchanger.
 */
export function createGateway(config) {
  const { exchanger: exchangerOptions, fetch: send, ...plain } = config ?? {};
  const text = JSON.stringify(plain);
  const grant = typeof exchangerOptions?.grant === "string" ? exchangerOptions.grant : undefined;
  const handle = living(() => new wasm.GatewayCore(text, grant), (failure) => new ExchangeError(failure));
  const core = (decision, ...about) => guarded(() => handle()[decision](...about));
  const exchanger = new TokenExchanger(exchangerOptions);
  const servers = new Map(Object.entries(core("servers")));
  const fetch = (url, init) => (send ?? globalThis.fetch)(url, init);
  const keys = new IssuerKeys(fetch, core);
  return {
    exchanger,
    fetch: async (request, ctx) => {
      const url = new URL(request.url);
      const route = core("route", request.method, url.pathname, url.search.slice(1));
      if (typeof route !== "string") return respond(route);
      const server = servers.get(route);
      const assertion = core("bearer", server.name, request.headers.get("authorization") ?? undefined);
      if (typeof assertion !== "string") return respond(assertion);
      const refusal = await verify(core, keys, server, assertion);
      if (refusal) return respond(refusal);
      try {
        const exchange = new Exchange(exchanger, exchangeRequest(server, assertion, request), ctx);
        return await forward(core, fetch, server, request, exchange);
      } catch (error) {
        if (!(error instanceof ExchangeError)) throw error;
        return respond(core("failed", server.name, error.reason, error.claims, error.acrValues, error.maxAge, error.retryAfter));
      }
    },
  };
}

/** The exchange of one request, and what it came to. */
class Exchange {
  #exchanger;
  #request;
  #ctx;

  constructor(exchanger, request, ctx) {
    this.#exchanger = exchanger;
    this.#request = request;
    this.#ctx = ctx;
  }

  async token() {
    const begun = performance.now();
    const token = await this.#exchanger.exchange(this.#request, this.#ctx);
    return { ...token, timing: `obo;dur=${Math.round(performance.now() - begun)};desc="${token.source}"` };
  }

  /** Another token in the place of one that its server refused. */
  async tokenAfterRefusal() {
    // A store that keeps it does not bring it back here.
    await internal.evict(this.#exchanger, this.#request, true).catch(() => undefined);
    return this.token();
  }
}

function exchangeRequest(server, assertion, request) {
  const exchange = { assertion, scopes: server.scopes, signal: request.signal };
  if (server.resource.length > 0) exchange.resource = server.resource;
  if (server.exchangeAudience.length > 0) exchange.audience = server.exchangeAudience;
  return exchange;
}

/** The answer to a token that the server does not take, or nothing. */
async function verify(core, keys, server, assertion) {
  const options = {
    issuer: server.issuer,
    audience: server.audience,
    algorithms: server.algorithms,
    requiredClaims: ["exp"],
    clockTolerance: CLOCK_TOLERANCE_SECONDS,
  };
  let verified;
  try {
    verified = await verifySignature(keys, server, assertion, options);
  } catch (error) {
    return TOKEN_FAULT.test(error?.code) ? core("invalid_token", server.name) : core("keys_unavailable");
  }
  const { protectedHeader, payload } = verified;
  return core("judge", server.name, JSON.stringify(protectedHeader), JSON.stringify(payload));
}

async function verifySignature(keys, server, assertion, options) {
  // Whether the token can be one at all is known without keys.
  if (!options.algorithms.includes(algorithmOf(assertion))) throw new errors.JOSEAlgNotAllowed("not allowed");
  const set = await keys.get(server);
  try {
    return await verifyWith(set, assertion, options);
  } catch (error) {
    if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
    // The issuer may have begun to sign with a new key.
    const renewed = await keys.renew(server, set);
    if (renewed === undefined) throw error;
    return verifyWith(renewed, assertion, options);
  }
}

function algorithmOf(assertion) {
  try {
    return decodeProtectedHeader(assertion).alg;
  } catch {
    return undefined;
  }
}

async function verifyWith(set, assertion, options) {
  try {
    return await jwtVerify(assertion, createLocalJWKSet(set), options);
  } catch (error) {
    if (error?.code !== "ERR_JWKS_MULTIPLE_MATCHING_KEYS") throw error;
    // Without a `kid` each fitting key is tried.
    for await (const key of error) {
      try {
        return await jwtVerify(assertion, key, options);
      } catch (inner) {
        if (inner?.code !== "ERR_JWS_SIGNATURE_VERIFICATION_FAILED") throw inner;
      }
    }
    throw new errors.JWSSignatureVerificationFailed();
  }
}

async function forward(core, fetch, server, request, exchange) {
  let token = await exchange.token();
  const body = await bodyOf(core, request, token).catch(() => undefined);
  // Its client has left in the middle.
  if (!body) return respond(core("upstream_unreachable"), token.timing);
  let upstream = await send(core, fetch, server, request, body.content, token);
  if (upstream && core("is_worth_a_fresh_token", upstream.status, token.source)) {
    const fresh = await exchange.tokenAfterRefusal();
    if (body.isKept && fresh.accessToken !== token.accessToken) {
      await discard(upstream);
      upstream = await send(core, fetch, server, request, body.content, fresh);
    }
    token = fresh;
  }
  if (!upstream) return respond(core("upstream_unreachable"), token.timing);
  const refused = core("refused_upstream", upstream.status);
  if (refused) {
    await discard(upstream);
    return respond(refused, token.timing);
  }
  const passed = new Headers({ "cache-control": "no-store", "server-timing": token.timing });
  for (const [name, value] of upstream.headers) if (core("passes_downstream", name)) passed.set(name, value);
  return new Response(upstream.body, { status: upstream.status, headers: passed });
}

/** The body to send, kept where the server may refuse the token and it is short enough to be sent once more. */
async function bodyOf(core, request, token) {
  if (request.body === null) return { content: null, isKept: true };
  const length = request.headers.get("content-length");
  if (!core("is_worth_a_fresh_token", 401, token.source) || length === null || !(Number(length) <= MAX_RESENT_BYTES)) {
    return { content: request.body, isKept: false };
  }
  return { content: await request.arrayBuffer(), isKept: true };
}

/** The server's response, or nothing where it cannot be reached. */
async function send(core, fetch, server, request, body, token) {
  const headers = new Headers();
  for (const [name, value] of request.headers) if (core("passes_upstream", name)) headers.set(name, value);
  headers.set("authorization", `${token.tokenType} ${token.accessToken}`);
  try {
    return await fetch(server.url, {
      method: request.method,
      headers,
      body,
      // What Node asks for where a body is a stream.
      duplex: "half",
      redirect: "manual",
      signal: request.signal,
    });
  } catch {
    return undefined;
  }
}

/** Nobody reads this body, and an unread one keeps the connection. */
async function discard(response) {
  await response.body?.cancel().catch(() => undefined);
}

/** An answer of the core's own. */
function respond({ status, headers, body }, timing) {
  const response = new Response(body === "" ? null : body, { status, headers });
  if (timing) response.headers.set("server-timing", timing);
  return response;
}
