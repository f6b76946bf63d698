/** OAuth 2.0 On-Behalf-Of token exchange. See README.md. */

/** Exchanges users' access tokens for tokens of a downstream resource. One for each configuration, made once. */
export class TokenExchanger {
  /** @throws {ExchangeError} `misconfigured`, with the option that is missing, wrong or unknown as `field`. */
  constructor(options: ExchangerOptions);
  /**
   * A token for `request`, from a cache, from an exchange that is under way, or from the token endpoint.
   * Does not verify the assertion: verify it first.
   * @param ctx the request's context in Workers; without it `waitUntil` of `cloudflare:workers` is used.
   * @throws {ExchangeError}
   */
  exchange(request: ExchangeRequest, ctx?: ExchangeContext): Promise<ExchangedToken>;
  /**
   * Forgets the token for `request`, in memory, the store and the coordinator. Here it does not come back, whatever
   * the store still answers; another isolate's memory is not reached.
   * @throws {ExchangeError} `unavailable` where the store or the coordinator did not remove it.
   */
  evict(request: ExchangeRequest): Promise<void>;
  /** Counters since the isolate started, or since its WebAssembly instance was replaced. */
  readonly stats: ExchangerStats;
}

export interface ExchangeContext {
  waitUntil(promise: Promise<unknown>): void;
}

export interface ExchangerOptions {
  /**
   * The authorization server's issuer identifier. Alone it is enough: its metadata is discovered (OpenID Discovery,
   * RFC 8414), must name this issuer exactly, and is used for an hour, for a day at most while it cannot be renewed.
   */
  issuer?: string;
  /** The token endpoint: https, or http on localhost and loopback addresses. Skips discovery. One of both is required. */
  tokenEndpoint?: string;
  /** This client's id at the token endpoint. */
  clientId: string;
  clientAuthentication: ClientAuthentication;
  /**
   * `on-behalf-of` (default): Entra ID's flow. `token-exchange`: RFC 8693. `jwt-bearer`: RFC 7523 section 2.1.
   * `identity-assertion`: ID-JAG, an ID token or SAML assertion in, by way of `resourceAuthorizationServer`.
   */
  grant?: "on-behalf-of" | "token-exchange" | "jwt-bearer" | "identity-assertion";
  /** The second server of `identity-assertion`, and this client there. */
  resourceAuthorizationServer?: ResourceAuthorizationServer;
  /**
   * Whether a JWT assertion that can only be refused is refused without a round trip: expired, not yet valid, an ID
   * token, app-only, without `scp` where Entra is its issuer, for another audience. Default `true`.
   */
  inspectAssertion?: boolean;
  /** A Workers KV namespace, or anything with its `get`, `put` and `delete`. Needs `storeSecrets`. */
  store?: KeyValueStore | null;
  /**
   * Durable Objects of a class of `obo-edge/coordinator`: each exchange is made once in the world, and not once in each
   * isolate. Needs `storeSecrets`. Gets at most 60 % of `timeoutMs`; where it fails, the isolate exchanges by itself.
   */
  coordinator?: Coordinators | null;
  /** Which of several exchangers this is, for a coordinator that serves them all. */
  name?: string;
  /** What seals and names entries: at least 32 bytes in base64 each, newest first, at most 4. */
  storeSecrets?: string | readonly string[];
  /** What sends token requests: a function like `fetch`, or a binding that has one. */
  fetch?: typeof fetch | { fetch: typeof fetch };
  /** `attempts` 1 to 5, default 2; `delayMs` 0 to 5000 ms, default 300, to which up to a half is added at random. */
  retry?: { attempts?: number; delayMs?: number };
  /** Milliseconds for a whole exchange, 1000 to 25 000, default 10 000. */
  timeoutMs?: number;
  /** Milliseconds that a cached token may serve, 1000 to 86 400 000, default 3 600 000. */
  maxLifetimeMs?: number;
  /** Gets each event as it happens. None holds a secret. What it throws is ignored. */
  onEvent?: (event: ExchangeEvent) => void;
}

export interface ResourceAuthorizationServer {
  /** The audience of the identity assertion; discovered from where `tokenEndpoint` is absent. */
  issuer: string;
  tokenEndpoint?: string;
  clientId: string;
  clientAuthentication: ClientAuthentication;
}

export type ClientAuthentication =
  /** `client_id` and `client_secret` in the body (RFC 6749 section 2.3.1). */
  | { method: "client_secret_post"; clientSecret: string }
  /** HTTP Basic, id and secret form-urlencoded first (RFC 6749 section 2.3.1). */
  | { method: "client_secret_basic"; clientSecret: string }
  /** A JWT signed with the client's key (RFC 7523 section 2.2). */
  | PrivateKeyJwt
  /** A JWT that the function gives: workload identity federation. Asked for each token request, never stored. */
  | { method: "client_assertion"; clientAssertion: () => string | Promise<string> }
  /** The client's certificate, by `fetch`: in Workers an `mtls_certificates` binding (RFC 8705 section 2). */
  | { method: "tls_client_auth" }
  /** A public client. */
  | { method: "none" };

export interface PrivateKeyJwt {
  method: "private_key_jwt";
  /** A PKCS #8 PEM, not encrypted; a private JWK; or a CryptoKey that may sign. */
  key: string | JsonWebKey | CryptoKey;
  /** `ES256` needs a key on P-256, the others RSA of 2048 bits or more. */
  algorithm: "RS256" | "PS256" | "ES256";
  kid?: string;
  /** The client's certificate in PEM: gives `x5t#S256`, and past its end nothing is signed. */
  certificate?: string;
}

export interface KeyValueStore {
  get(name: string): Promise<string | null>;
  put(name: string, value: string, options?: { expirationTtl?: number }): Promise<void>;
  delete(name: string): Promise<void>;
}

/** A namespace of Durable Objects, or one of its jurisdictions. */
export interface Coordinators {
  idFromName(name: string): unknown;
  // Its objects are Cloudflare's to declare; what is called is the class of `obo-edge/coordinator`.
  get(id: never): unknown;
}

export interface ExchangeRequest {
  /** The user's access token, verified; for `identity-assertion` an ID token or SAML assertion. */
  assertion: string;
  /**
   * RFC 8693 `subject_token_type`, a URI. For `token-exchange`, by default an access token, and `identity-assertion`,
   * by default an ID token.
   */
  assertionType?: string;
  /** RFC 8693 `actor_token`. For `token-exchange`. */
  actorToken?: string;
  /** By default an access token. */
  actorTokenType?: string;
  /** What the token is to be good for; one string may hold several, separated by spaces. Empty but for `on-behalf-of`: none is asked for. */
  scopes: string | readonly string[];
  /** Lets renewed assertions of one user share a token. Fill it from verified claims only. */
  subject?: VerifiedSubject;
  /** RFC 8707 `resource`, absolute URIs. Not for `on-behalf-of`; required for `identity-assertion`. */
  resource?: string | readonly string[];
  /** RFC 8693 `audience`. For `token-exchange`. */
  audience?: string | readonly string[];
  /** The claims request of a claims challenge, JSON. For `on-behalf-of`. */
  claims?: string;
  /** `false` asks the token endpoint, whatever is cached or under way. Default `true`. */
  fromCache?: boolean;
  /** Ends this call's wait; an exchange that others share goes on. */
  signal?: AbortSignal;
}

export interface VerifiedSubject {
  issuer: string;
  tenant?: string;
  id: string;
  /** What makes two sessions of one user unlike: client, `sid`, scopes, `acr`, `amr`, `cnf`. */
  context?: string;
}

export interface ExchangedToken {
  accessToken: string;
  tokenType: string;
  /** The token's own expiry, in milliseconds since the epoch. */
  expiresAt: number;
  /** The granted scopes, separated by spaces. */
  scope: string;
  issuedTokenType?: string;
  /** Where it came from; `store`: or from what a coordinator kept; `flight`: an exchange that another call had begun. */
  source: "memory" | "store" | "flight" | "issuer";
}

export class ExchangeError extends Error {
  /** The package makes its errors itself. */
  private constructor();
  reason: FailureReason;
  /** Whether the same call may succeed later without anybody doing anything. */
  retryable: boolean;
  /** The token endpoint's HTTP status. */
  status?: number;
  /** The response's `error`, `suberror`, `error_codes`. */
  error?: string;
  suberror?: string;
  errorCodes?: number[];
  /** The claims challenge to hand on to the client, JSON. */
  claims?: string;
  /** RFC 9470. */
  acrValues?: string;
  maxAge?: number;
  /** Seconds to wait. */
  retryAfter?: number;
  correlationId?: string;
  traceId?: string;
  /** The option, request field or response member that is missing or wrong. */
  field?: string;
}

export type FailureReason =
  | "invalid_request"
  | "assertion_rejected"
  | "interaction_required"
  | "consent_required"
  | "blocked"
  | "throttled"
  | "unavailable"
  | "misconfigured"
  | "invalid_response"
  | "not_trusted"
  | "cancelled";

export interface ExchangeEvent {
  type:
    | "memory_hit"
    | "store_hit"
    | "join"
    | "token_request"
    | "retry"
    | "takeover"
    | "token"
    | "failure"
    | "last_resort"
    | "store_failure"
    | "seal_failure"
    | "eviction"
    | "metadata_request"
    | "metadata_failure"
    | "coordinator_hit"
    | "coordinator_failure"
    | "renewal"
    | "throttle"
    | "remembered_failure";
  /** Which token request of the exchange, from 1. */
  attempt?: number;
  /** Milliseconds until the next one. */
  waitMs?: number;
  reason?: FailureReason;
  status?: number;
  correlationId?: string;
}

/** How many events of each type there were, and what is held now. */
export interface ExchangerStats {
  memoryHits: number;
  storeHits: number;
  joins: number;
  tokenRequests: number;
  retries: number;
  takeovers: number;
  tokens: number;
  failures: number;
  lastResorts: number;
  storeFailures: number;
  sealFailures: number;
  evictions: number;
  /** Requests for an issuer's metadata, and how often it could not be had. */
  metadataRequests: number;
  metadataFailures: number;
  /** Tokens from the coordinator, and how often the exchange went on without it. */
  coordinatorHits: number;
  coordinatorFailures: number;
  /** Renewals in the background. */
  renewals: number;
  /** Token requests that did not leave, because the identity provider throttles. */
  throttles: number;
  /** Calls that failed as the same one did a moment ago. */
  rememberedFailures: number;
  /** Flights under way now. */
  flights: number;
  memoryEntries: number;
  memoryBytes: number;
}
