// A program as a user of Node, Deno or Bun writes it: exchanges, and ends when it has nothing more to do.
import { argv, stdout } from "node:process";
import { ExchangeError, TokenExchanger } from "obo-edge";

const { options, request } = JSON.parse(argv[2]);
const events = [];
const store = new Map();
const exchanger = new TokenExchanger({
  ...options,
  onEvent: (event) => events.push(event.type),
  store: {
    get: async (name) => store.get(name) ?? null,
    put: async (name, value) => void store.set(name, value),
    delete: async (name) => void store.delete(name),
  },
});

const withSignal = () => ({ ...request, signal: new AbortController().signal });
const tokens = await Promise.all(Array.from({ length: 100 }, () => exchanger.exchange(withSignal())));
const hit = await exchanger.exchange(request);
await exchanger.evict(request);
const failure = await exchanger.exchange({ ...request, assertion: "opaque" }).catch((error) => error);
const missing = await exchanger.exchange({ scopes: request.scopes }).catch((error) => error);
const cancelled = await exchanger.exchange({ ...request, signal: AbortSignal.abort() }).catch((error) => error);
let misconfigured;
try {
  new TokenExchanger({ ...options, clientID: "x" });
} catch (error) {
  misconfigured = error;
}

stdout.write(
  `${JSON.stringify({
    runtime: globalThis.Deno ? "deno" : globalThis.Bun ? "bun" : "node",
    accessTokens: [...new Set(tokens.map(({ accessToken }) => accessToken))],
    sources: [...new Set(tokens.map(({ source }) => source))],
    hit: hit.source,
    errors: [failure, missing, cancelled, misconfigured].map((error) => [error instanceof ExchangeError, error.reason, error.field]),
    stats: exchanger.stats,
    events,
    answeredAt: Date.now(),
  })}\n`,
);
