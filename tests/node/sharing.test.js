// Many callers and one exchanger: who shares an exchange, who waits, who leaves, and what stays behind.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { after, before, beforeEach, test } from "node:test";
import { ExchangeError, TokenExchanger } from "obo-edge";
import { guarded } from "../../pkg/instance.js";
import {
  completeOptions,
  errorResponse,
  failureOf,
  newStoreSecret,
  MapStore,
  scope,
  startIssuer,
  tokenEndpoint,
  tokenFor,
  tokenResponse,
  unsignedToken,
  until,
} from "./support.js";

let issuer;

before(async () => {
  issuer = await startIssuer();
});
after(() => issuer.close());
beforeEach(() => {
  issuer.faults.clear();
  issuer.tokenRequests.length = 0;
});

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const times = (count, make) => Array.from({ length: count }, (_, index) => make(index));

/** An exchanger whose token endpoint answers after `delayMs`. */
function slow(answer, { delayMs = 20, ...overrides } = {}) {
  const endpoint = tokenEndpoint(async (form, init, count) => {
    await sleep(delayMs);
    return answer?.(form, init, count);
  });
  const exchanger = new TokenExchanger(completeOptions({ fetch: endpoint.fetch, ...overrides }));
  return { exchanger, requests: endpoint.requests, request: { assertion: unsignedToken(), scopes: scope } };
}

test("a hundred calls at once for one key make one token request", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  const assertion = await issuer.mintUserToken();
  const tokens = await Promise.all(times(100, () => exchanger.exchange({ assertion, scopes: scope })));
  assert.equal(issuer.tokenRequests.length, 1);
  assert.equal(new Set(tokens.map(({ accessToken }) => accessToken)).size, 1);
  assert.deepEqual(tokens.map(({ source }) => source), ["issuer", ...times(99, () => "flight")]);
  assert.deepEqual([exchanger.stats.joins, exchanger.stats.flights], [99, 0]);
});

test("a hundred calls at once for a hundred users make a hundred requests, and nobody gets another's token", async () => {
  const { exchanger, requests } = slow();
  const assertions = times(100, () => unsignedToken());
  const tokens = await Promise.all(assertions.map((assertion) => exchanger.exchange({ assertion, scopes: scope })));
  assert.equal(requests.length, 100);
  assert.deepEqual(tokens.map(({ accessToken }) => accessToken), assertions.map(tokenFor));
});

test("calls that come while an exchange is under way join it, and those after it hit memory", async () => {
  const { exchanger, requests, request } = slow();
  const early = exchanger.exchange(request);
  await sleep(10);
  const late = exchanger.exchange(request);
  assert.deepEqual([(await early).source, (await late).source], ["issuer", "flight"]);
  assert.equal((await exchanger.exchange(request)).source, "memory");
  assert.equal(requests.length, 1);
});

test("a hundred calls at once read the store once and write it once", async () => {
  const store = new MapStore();
  const { exchanger, request } = slow(undefined, { store, storeSecrets: newStoreSecret() });
  await Promise.all(times(100, () => exchanger.exchange(request)));
  await store.written(1);
  assert.deepEqual([store.gets.length, store.puts.length], [1, 1]);
});

test("a failure is everybody's who waited for it, and the next caller's until it is forgotten", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const { exchanger, requests, request } = slow((_form, _init, count) => (count === 1 ? errorResponse(400, { error: "invalid_client" }) : undefined));
  const errors = await Promise.all(times(100, () => failureOf(exchanger.exchange(request))));
  assert.deepEqual(new Set(errors.map(({ reason }) => reason)), new Set(["misconfigured"]));
  assert.equal((await failureOf(exchanger.exchange(request))).reason, "misconfigured");
  assert.equal(requests.length, 1);
  t.mock.timers.tick(10_000);
  assert.equal((await exchanger.exchange(request)).source, "issuer");
});

test("a retried 503 is retried once for all who wait", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  const assertion = await issuer.mintUserToken();
  issuer.faults.push(503);
  await Promise.all(times(50, () => exchanger.exchange({ assertion, scopes: scope })));
  assert.equal(issuer.tokenRequests.length, 2);
});

test("one assertion's failure does not fail another assertion of the same subject", async () => {
  const rejected = unsignedToken();
  const { exchanger, requests } = slow((form) => (form.get("assertion") === rejected ? errorResponse(400, { error: "invalid_grant" }) : undefined));
  const subject = { issuer: "https://login.example", id: "ada" };
  const good = unsignedToken();
  const [failed, ...answered] = await Promise.allSettled([
    exchanger.exchange({ assertion: rejected, scopes: scope, subject }),
    ...times(20, () => exchanger.exchange({ assertion: good, scopes: scope, subject })),
  ]);
  assert.equal(failed.reason.reason, "assertion_rejected");
  for (const { value } of answered) assert.equal(value.accessToken, tokenFor(good));
  assert.equal(requests.length, 2, "those who begin anew share one request");
});

test("fromCache: false neither joins nor is joined, and its token is the newest", async () => {
  const { exchanger, requests, request } = slow((_form, _init, count) => tokenResponse({ access_token: `token-${count}` }));
  const tokens = await Promise.all([
    exchanger.exchange(request),
    exchanger.exchange({ ...request, fromCache: false }),
    exchanger.exchange({ ...request, fromCache: false }),
    exchanger.exchange(request),
  ]);
  assert.deepEqual(tokens.map(({ source }) => source), ["issuer", "issuer", "issuer", "flight"]);
  assert.equal(tokens[0].accessToken, tokens[3].accessToken);
  assert.equal(new Set(tokens.map(({ accessToken }) => accessToken)).size, 3);
  assert.equal(requests.length, 3);
  assert.equal((await exchanger.exchange({ ...request, fromCache: false })).accessToken, "token-4");
  assert.equal((await exchanger.exchange(request)).accessToken, "token-4");
});

test("fromCache: false alone is not joined by those who come after it", async () => {
  const { exchanger, requests, request } = slow();
  const tokens = await Promise.all([exchanger.exchange({ ...request, fromCache: false }), exchanger.exchange(request)]);
  assert.deepEqual(tokens.map(({ source }) => source), ["issuer", "issuer"]);
  assert.equal(requests.length, 2);
});

test("each caller gets a token object of its own", async () => {
  const { exchanger, request } = slow();
  const tokens = await Promise.all(times(3, () => exchanger.exchange(request)));
  tokens[0].accessToken = "changed";
  assert.equal(tokens[1].accessToken, tokenFor(request.assertion));
  assert.equal((await exchanger.exchange(request)).accessToken, tokenFor(request.assertion));
});

// --- Callers that leave ---

test("a signal that has fired already is cancelled, and nothing is sent", async () => {
  const { exchanger, requests, request } = slow();
  const error = await failureOf(exchanger.exchange({ ...request, signal: AbortSignal.abort() }));
  assert.deepEqual([error.reason, error.retryable, error.message], ["cancelled", false, "the caller's signal ended the wait"]);
  await sleep(10);
  assert.equal(requests.length, 0);
  assert.equal(exchanger.stats.flights, 0);
});

test("a signal that has fired already is cancelled even where memory has the answer", async () => {
  const { exchanger, request } = slow();
  await exchanger.exchange(request);
  const error = await failureOf(exchanger.exchange({ ...request, signal: AbortSignal.abort() }));
  assert.equal(error.reason, "cancelled");
});

test("a caller that leaves ends its own wait at once, never the exchange that it leads", async () => {
  const { exchanger, requests, request } = slow(undefined, { delayMs: 60 });
  const controller = new AbortController();
  const leader = failureOf(exchanger.exchange({ ...request, signal: controller.signal }));
  const followers = times(10, () => exchanger.exchange(request));
  await sleep(10);
  const started = performance.now();
  controller.abort(new Error("the user went away"));
  assert.equal((await leader).reason, "cancelled");
  assert.ok(performance.now() - started < 30);
  assert.ok(!(await leader).message.includes("went away"));
  for (const token of await Promise.all(followers)) assert.equal(token.source, "flight");
  assert.equal(requests.length, 1);
  assert.equal(requests[0].init.signal.aborted, false);
});

test("a follower that leaves disturbs nobody", async () => {
  const { exchanger, requests, request } = slow();
  const leader = exchanger.exchange(request);
  const controller = new AbortController();
  const leaving = failureOf(exchanger.exchange({ ...request, signal: controller.signal }));
  const staying = exchanger.exchange(request);
  controller.abort();
  assert.equal((await leaving).reason, "cancelled");
  assert.deepEqual([(await leader).source, (await staying).source], ["issuer", "flight"]);
  assert.equal(requests.length, 1);
});

test("a token whose only caller has left is kept for the next one", async () => {
  const { exchanger, requests, request } = slow();
  const error = await failureOf(exchanger.exchange({ ...request, signal: AbortSignal.timeout(5) }));
  assert.equal(error.reason, "cancelled");
  await until(() => exchanger.stats.memoryEntries === 1);
  assert.equal((await exchanger.exchange(request)).source, "memory");
  assert.equal(requests.length, 1);
});

test("a signal that fires after the answer changes nothing", async () => {
  const { exchanger, request } = slow();
  const controller = new AbortController();
  const token = await exchanger.exchange({ ...request, signal: controller.signal });
  controller.abort();
  assert.equal(token.accessToken, tokenFor(request.assertion));
});

test("a thousand calls leave no listener on the one signal that they share", async (context) => {
  const warnings = [];
  const note = (warning) => warnings.push(warning);
  process.on("warning", note);
  context.after(() => process.off("warning", note));
  const { exchanger, request } = slow((form) => (form.get("assertion").length % 2 ? errorResponse(400, { error: "invalid_grant" }) : undefined), { delayMs: 1 });
  const { signal } = new AbortController();
  const listeners = () => getEventListeners(signal, "abort").length;
  // Node warns of more than ten listeners at once, so five fail or hit and five join, a hundred times.
  for (let round = 0; round < 100; round += 1) {
    const own = times(5, (index) => exchanger.exchange({ ...request, assertion: unsignedToken({ pad: "x".repeat(index) }), signal }));
    const shared = times(5, () => exchanger.exchange({ ...request, fromCache: round % 2 === 0, signal }));
    await Promise.allSettled([...own, ...shared]);
    assert.equal(listeners(), 0, `after ${round + 1} rounds`);
  }
  await sleep(0);
  assert.deepEqual(warnings.map(String), []);
});

test("a caller that times out or leaves takes its listener with it", async () => {
  const { exchanger, request } = slow(undefined, { delayMs: 1200, timeoutMs: 1000, retry: { attempts: 1 } });
  const controller = new AbortController();
  const lateness = failureOf(exchanger.exchange({ ...request, signal: controller.signal }));
  await sleep(5);
  assert.equal(getEventListeners(controller.signal, "abort").length, 1);
  assert.equal((await lateness).reason, "unavailable");
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
  const another = { assertion: unsignedToken(), scopes: scope, signal: controller.signal };
  const leaving = failureOf(exchanger.exchange(another));
  await sleep(5);
  controller.abort();
  assert.equal((await leaving).reason, "cancelled");
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});

test("two thousand callers that leave, leave no flight behind", async () => {
  const { exchanger } = slow(undefined, { delayMs: 5 });
  for (let round = 0; round < 40; round += 1) {
    const controllers = times(50, () => new AbortController());
    const calls = controllers.map(({ signal }) => exchanger.exchange({ assertion: unsignedToken(), scopes: scope, signal }));
    await sleep(0);
    for (const controller of controllers) controller.abort();
    for (const { reason } of await Promise.allSettled(calls)) assert.ok(reason === undefined || reason instanceof ExchangeError);
  }
  await until(() => exchanger.stats.flights === 0);
});

// --- Eviction and what is under way ---

test("who asks after an eviction is not handed what was under way before it", async () => {
  const { exchanger, requests, request } = slow((_form, _init, count) => tokenResponse({ access_token: `token-${count}` }));
  const before = exchanger.exchange(request);
  await sleep(5);
  await exchanger.evict(request);
  const after = exchanger.exchange(request);
  assert.equal((await before).accessToken, "token-1");
  assert.equal((await after).accessToken, "token-2");
  assert.equal(requests.length, 2);
  assert.equal((await exchanger.exchange(request)).accessToken, "token-2");
});

// --- Listeners ---

test("a listener hears of each event, however many come at once", async () => {
  const heard = {};
  const onEvent = ({ type }) => void (heard[type] = (heard[type] ?? 0) + 1);
  const { exchanger, request } = slow(undefined, { onEvent });
  await Promise.all(times(1000, () => exchanger.exchange(request)));
  await Promise.all(times(1000, () => exchanger.exchange(request)));
  assert.deepEqual(heard, { token_request: 1, join: 999, token: 1, memory_hit: 1000 });
});

test("what a listener throws is ignored", async () => {
  for (const thrown of [new Error("mine"), new RangeError("mine"), new WebAssembly.RuntimeError("mine"), undefined]) {
    const { exchanger, request } = slow(undefined, {
      onEvent: () => {
        throw thrown;
      },
    });
    assert.equal((await exchanger.exchange(request)).source, "issuer");
    assert.equal((await exchanger.exchange(request)).source, "memory");
  }
});

test("a listener that calls the exchanger itself mixes up nothing", async () => {
  for (const first of ["token_request", "token", "memory_hit", "failure"]) {
    let nested;
    const inner = { assertion: unsignedToken(), scopes: scope };
    const onEvent = ({ type }) => {
      if (type === first) nested ??= exchanger.exchange(inner);
    };
    const { exchanger, request } = slow((form) => (form.get("assertion").includes("refused") ? errorResponse(400, { error: "invalid_grant" }) : undefined), { onEvent });
    const token = await exchanger.exchange(request);
    assert.equal(token.accessToken, tokenFor(request.assertion), first);
    assert.equal((await exchanger.exchange(request)).accessToken, tokenFor(request.assertion), first);
    const error = await failureOf(exchanger.exchange({ assertion: "refused", scopes: scope }));
    assert.equal(error.reason, "assertion_rejected", first);
    assert.equal((await nested).accessToken, tokenFor(inner.assertion), first);
    assert.deepEqual([exchanger.stats.tokenRequests, exchanger.stats.takeovers], [3, 0], first);
  }
});

test("a waitUntil that calls the exchanger itself mixes up nothing", async () => {
  const { exchanger, request } = slow();
  const inner = { assertion: unsignedToken(), scopes: scope };
  let nested;
  const waitUntil = () => void (nested ??= exchanger.exchange(inner));
  assert.equal((await exchanger.exchange(request, { waitUntil })).accessToken, tokenFor(request.assertion));
  assert.equal((await nested).accessToken, tokenFor(inner.assertion));
  assert.deepEqual([exchanger.stats.tokenRequests, exchanger.stats.takeovers], [2, 0]);
});

test("an event holds what happened and nothing else", async () => {
  const events = [];
  const { exchanger, request } = slow((_form, _init, count) => (count === 1 ? errorResponse(503, {}) : undefined), { onEvent: (event) => events.push(event), retry: { delayMs: 0 } });
  await exchanger.exchange(request);
  await exchanger.exchange(request);
  await exchanger.evict(request);
  assert.deepEqual(events, [
    { type: "token_request", attempt: 1 },
    { type: "retry", attempt: 1, waitMs: 0, reason: "unavailable", status: 503 },
    { type: "token_request", attempt: 2 },
    { type: "token", attempt: 2 },
    { type: "memory_hit" },
    { type: "eviction" },
  ]);
});

// --- An instance that breaks ---

/** Makes the package believe that its WebAssembly instance trapped, so that it puts a new one in its place. */
function breakInstance() {
  assert.throws(() =>
    guarded(() => {
      throw new WebAssembly.RuntimeError("unreachable");
    }),
  );
}

test("callers that wait when the WebAssembly instance breaks get their tokens, and the process lives on", async (context) => {
  const crashes = [];
  const note = (error) => crashes.push(error);
  for (const event of ["uncaughtException", "unhandledRejection"]) {
    process.on(event, note);
    context.after(() => process.off(event, note));
  }
  const { exchanger, requests, request } = slow(undefined, { store: new MapStore(), storeSecrets: newStoreSecret(), timeoutMs: 2000 });
  const kept = [];
  const waiting = times(20, () => exchanger.exchange(request, { waitUntil: (promise) => kept.push(promise) }));
  await until(() => requests.length === 1);
  const started = Date.now();
  breakInstance();
  const tokens = await Promise.all(waiting);
  for (const { accessToken } of tokens) assert.equal(accessToken, tokenFor(request.assertion));
  assert.equal(requests.length, 2);
  assert.ok(Date.now() - started < 1900);
  assert.equal((await exchanger.exchange(request)).source, "memory");
  await sleep(100);
  assert.deepEqual(crashes.map(String), []);
});

test("an exchanger goes on after its WebAssembly instance broke while nothing was under way", async () => {
  const { exchanger, request } = slow();
  await exchanger.exchange(request);
  breakInstance();
  assert.deepEqual([exchanger.stats.memoryEntries, exchanger.stats.tokens], [0, 0]);
  await exchanger.evict(request);
  breakInstance();
  assert.equal((await exchanger.exchange(request)).source, "issuer");
  assert.equal((await exchanger.exchange(request)).source, "memory");
});
