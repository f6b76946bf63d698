// What the declarations must not let through. Each line below a directive is an error, or the check fails.
import { ExchangeError, TokenExchanger, type ExchangedToken, type ExchangerOptions } from "obo-edge";

declare const exchanger: TokenExchanger;
declare const options: ExchangerOptions;
declare const token: ExchangedToken;
declare const bucket: R2Bucket;

// @ts-expect-error options are required
new TokenExchanger();
// @ts-expect-error clientId and clientAuthentication are required
new TokenExchanger({});
// @ts-expect-error an unknown option
new TokenExchanger({ ...options, clientID: "gateway" });
// @ts-expect-error no such grant
new TokenExchanger({ ...options, grant: "password" });
// @ts-expect-error no such client authentication
new TokenExchanger({ ...options, clientAuthentication: { method: "client_secret_jwt", clientSecret: "s" } });
// @ts-expect-error a public client with a secret
new TokenExchanger({ ...options, clientAuthentication: { method: "none", clientSecret: "s" } });
// @ts-expect-error a key without its algorithm
new TokenExchanger({ ...options, clientAuthentication: { method: "private_key_jwt", key: "pem" } });
// @ts-expect-error a client assertion is asked for, not given
new TokenExchanger({ ...options, clientAuthentication: { method: "client_assertion", clientAssertion: "jwt" } });
// @ts-expect-error the second server is named by its issuer
new TokenExchanger({ ...options, resourceAuthorizationServer: { clientId: "c", clientAuthentication: { method: "none" } } });
// @ts-expect-error a client authentication without its secret
new TokenExchanger({ ...options, clientAuthentication: { method: "client_secret_post" } });
// @ts-expect-error milliseconds are numbers
new TokenExchanger({ ...options, timeoutMs: "10s" });
// @ts-expect-error an unknown member of retry
new TokenExchanger({ ...options, retry: { delay: 1 } });
// @ts-expect-error a Map has no put
new TokenExchanger({ ...options, store: new Map<string, string>() });
// @ts-expect-error a bucket is no key-value store
new TokenExchanger({ ...options, store: bucket });
// @ts-expect-error a URL is no fetch
new TokenExchanger({ ...options, fetch: "https://proxy.example" });
// @ts-expect-error a fetch that answers text
new TokenExchanger({ ...options, fetch: async () => "text" });
// @ts-expect-error the listener takes an event
new TokenExchanger({ ...options, onEvent: (event: string) => event });

// @ts-expect-error a request is required
exchanger.exchange();
// @ts-expect-error scopes are required
exchanger.exchange({ assertion: "a" });
// @ts-expect-error the assertion is required
exchanger.exchange({ scopes: "s" });
// @ts-expect-error an assertion is text, and may not be absent
exchanger.exchange({ assertion: null, scopes: "s" });
// @ts-expect-error `scope` is no field
exchanger.exchange({ assertion: "a", scopes: "s", scope: "s" });
// @ts-expect-error a subject has an issuer
exchanger.exchange({ assertion: "a", scopes: "s", subject: { id: "ada" } });
// @ts-expect-error a controller is no signal
exchanger.exchange({ assertion: "a", scopes: "s", signal: new AbortController() });
// @ts-expect-error claims are JSON text
exchanger.exchange({ assertion: "a", scopes: "s", claims: { access_token: {} } });
// @ts-expect-error a context has waitUntil
exchanger.exchange({ assertion: "a", scopes: "s" }, {});
// @ts-expect-error counters are read-only
exchanger.stats = exchanger.stats;
// @ts-expect-error an expiry is a number
token.expiresAt.toISOString();
// @ts-expect-error no refresh token is handed on
token.refreshToken;
// @ts-expect-error no such reason
new Set<ExchangeError["reason"]>(["expired"]);
// @ts-expect-error the package makes its errors itself
new ExchangeError("message");
