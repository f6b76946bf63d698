// Middleware of a server in any runtime; it compiles with the types of Workers and with those of the Web alike.
import { ExchangeError, TokenExchanger, type ExchangeRequest, type ExchangerOptions, type KeyValueStore } from "obo-edge";

type Next = (request: Request) => Promise<Response>;

/** A store of one's own: what fits the interface is enough. */
class MemoryStore implements KeyValueStore {
  readonly #entries = new Map<string, string>();

  async get(name: string): Promise<string | null> {
    return this.#entries.get(name) ?? null;
  }

  async put(name: string, value: string, options?: { expirationTtl?: number }): Promise<void> {
    this.#entries.set(name, value);
    const seconds: number = options?.expirationTtl ?? 60;
    setTimeout(() => this.#entries.delete(name), seconds * 1000);
  }

  async delete(name: string): Promise<void> {
    this.#entries.delete(name);
  }
}

const basic: ExchangerOptions = {
  tokenEndpoint: "https://login.example/token",
  clientId: "gateway",
  clientAuthentication: { method: "client_secret_basic", clientSecret: "secret" },
};

export const exchanger = new TokenExchanger({ ...basic, store: new MemoryStore(), storeSecrets: ["newest", "older"] as const, fetch });
export const withoutStore = new TokenExchanger({ ...basic, store: null });

const scopes = ["api://mcp-files/tools.call", "api://mcp-files/tools.read"] as const;

export function onBehalfOf(next: Next, more: Pick<ExchangeRequest, "subject" | "claims"> = {}): Next {
  return async (request) => {
    const assertion = request.headers.get("authorization")?.slice("Bearer ".length);
    if (!assertion) return new Response(null, { status: 401 });
    try {
      const { accessToken, source } = await exchanger.exchange({
        ...more,
        assertion,
        scopes,
        fromCache: request.headers.get("cache-control") !== "no-cache",
        signal: request.signal,
      });
      const upstream = new Request(request);
      upstream.headers.set("authorization", `Bearer ${accessToken}`);
      const from: "memory" | "store" | "flight" | "issuer" = source;
      console.log(from);
      return await next(upstream);
    } catch (error) {
      if (error instanceof ExchangeError && error.reason === "cancelled") return new Response(null, { status: 499 });
      throw error;
    }
  };
}

/** Signing out. */
export async function forget(assertion: string): Promise<void> {
  const nothing: void = await exchanger.evict({ assertion, scopes, subject: { issuer: "https://login.example", id: "ada" } });
  return nothing;
}
