// A Worker as its author writes it: verify the user's token, exchange it, call the MCP server.
import { createRemoteJWKSet, jwtVerify } from "jose";
import { ExchangeError, TokenExchanger, type ExchangeEvent, type ExchangedToken, type ExchangerOptions, type FailureReason, type VerifiedSubject } from "obo-edge";

interface Env {
  TOKENS: KVNamespace;
  /** An mTLS binding or another Worker that reaches the token endpoint. */
  EGRESS: Fetcher;
  CLIENT_SECRET: string;
  STORE_SECRET: string;
  PREVIOUS_STORE_SECRET?: string;
}

const tenant = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555";
const keys = createRemoteJWKSet(new URL(`${tenant}/discovery/v2.0/keys`));

let exchanger: TokenExchanger | undefined;

function exchangerOf(env: Env): TokenExchanger {
  exchanger ??= new TokenExchanger({
    issuer: `${tenant}/v2.0`,
    tokenEndpoint: `${tenant}/oauth2/v2.0/token`,
    clientId: "gateway",
    clientAuthentication: { method: "client_secret_post", clientSecret: env.CLIENT_SECRET },
    grant: "on-behalf-of",
    store: env.TOKENS,
    storeSecrets: env.PREVIOUS_STORE_SECRET ? [env.STORE_SECRET, env.PREVIOUS_STORE_SECRET] : env.STORE_SECRET,
    fetch: env.EGRESS,
    retry: { attempts: 3, delayMs: 200 },
    timeoutMs: 8_000,
    maxLifetimeMs: 30 * 60_000,
    onEvent: logEvent,
  });
  return exchanger;
}

function logEvent(event: ExchangeEvent): void {
  if (event.type === "retry") console.log(`attempt ${event.attempt} failed (${event.reason}), again in ${event.waitMs} ms`);
  else if (event.type === "failure") console.error(event.reason, event.status, event.correlationId);
}

/** What to answer for each reason; the compiler says which one is missing. */
const statusOf: Record<FailureReason, number> = {
  invalid_request: 500,
  assertion_rejected: 401,
  interaction_required: 401,
  consent_required: 403,
  blocked: 403,
  throttled: 503,
  unavailable: 503,
  misconfigured: 500,
  invalid_response: 502,
  not_trusted: 403,
  cancelled: 499,
};

export default {
  async fetch(request, env, ctx): Promise<Response> {
    const assertion = request.headers.get("authorization")?.replace(/^bearer /i, "") ?? "";
    const { payload } = await jwtVerify(assertion, keys, { issuer: `${tenant}/v2.0`, audience: "gateway" });
    const subject: VerifiedSubject = { issuer: payload.iss!, id: payload.sub!, context: JSON.stringify([payload["azp"], payload["sid"]]) };

    let token: ExchangedToken;
    try {
      token = await exchangerOf(env).exchange(
        { assertion, scopes: ["api://mcp-files/tools.call"], subject, signal: request.signal },
        ctx,
      );
    } catch (error) {
      if (!(error instanceof ExchangeError)) throw error;
      const headers = new Headers();
      if (error.retryable) headers.set("retry-after", String(error.retryAfter ?? 1));
      if (error.claims !== undefined) headers.set("www-authenticate", `Bearer error="insufficient_claims", claims="${btoa(error.claims)}"`);
      console.error(error.message, error.errorCodes?.join(), error.correlationId, error.traceId, error.field);
      return new Response(null, { status: statusOf[error.reason], headers });
    }

    if (token.expiresAt < Date.now() + 60_000) ctx.waitUntil(exchangerOf(env).evict({ assertion, scopes: token.scope, subject }));
    return fetch("https://files.example/mcp", {
      method: request.method,
      body: request.body,
      headers: { authorization: `${token.tokenType} ${token.accessToken}` },
    });
  },
} satisfies ExportedHandler<Env>;

/** Counters for a metrics endpoint. */
export function metrics(of: TokenExchanger): string {
  const { memoryHits, storeHits, joins, tokenRequests } = of.stats;
  const lines: [string, number][] = Object.entries(of.stats);
  return [...lines.map(([name, count]) => `${name} ${count}`), memoryHits / (memoryHits + storeHits + joins + tokenRequests)].join("\n");
}

/** The binding itself, the global function, a function of one's own, or nothing. */
export function optionsOfFetch(env: Env, own: typeof fetch, binding?: Fetcher): NonNullable<ConstructorParameters<typeof TokenExchanger>[0]["fetch"]>[] {
  const bindings = binding === undefined ? [] : [binding];
  return [env.EGRESS, fetch, globalThis.fetch, own, (input, init) => fetch(input, init), ...bindings];
}

/** Each way for a client to prove itself. */
export function clientAuthentications(key: CryptoKey, jwk: JsonWebKey, pem: string): ExchangerOptions["clientAuthentication"][] {
  return [
    { method: "private_key_jwt", key, algorithm: "PS256", kid: "k1" },
    { method: "private_key_jwt", key: jwk, algorithm: "ES256" },
    { method: "private_key_jwt", key: pem, algorithm: "RS256", certificate: pem },
    { method: "client_assertion", clientAssertion: async () => pem },
    { method: "client_assertion", clientAssertion: () => pem },
    { method: "tls_client_auth" },
    { method: "none" },
  ];
}

/** An issuer alone, and the two servers of an identity assertion. */
export function byDiscovery(clientAuthentication: ExchangerOptions["clientAuthentication"]): ExchangerOptions[] {
  const at = { clientId: "gateway", clientAuthentication };
  return [
    { ...at, issuer: "https://login.example", grant: "token-exchange", inspectAssertion: false },
    { ...at, issuer: "https://idp.example", grant: "identity-assertion", resourceAuthorizationServer: { ...at, issuer: "https://resource.example" } },
  ];
}
