/** Every wait ends: by the caller's signal, by its time, whatever the other side does. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { eventually, requestOf, sleep, startWorld, tally } from "./fixtures/world.js";

const timeoutMs = 1000;
/** For what the call itself does, and a slow machine. */
const toleranceMs = 1000;

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

/** The outcome of a call, which must not have taken longer than its time. */
async function bounded(call, boundMs = timeoutMs + toleranceMs) {
  const start = performance.now();
  const outcome = await call;
  const took = performance.now() - start;
  assert.ok(took <= boundMs, `it took ${took} ms`);
  return outcome;
}

async function assertNothingUnderWay(exchanger) {
  const { flights } = await exchanger.stats();
  assert.equal(flights, 0);
}

for (const ctx of ["none", "given"]) {
  test(`the leader's signal ends its own wait only: all others still get the token (ctx: ${ctx})`, async () => {
    const exchanger = world.exchanger({ store: "kv" });
    world.partner.valves.token.hold();
    const request = requestOf(`ada-${ctx}`);
    const leader = exchanger.exchange({ ctx, request, abortAt: "leader's end" });
    await world.partner.valves.token.arrived();
    const followers = Promise.all(Array.from({ length: 10 }, () => exchanger.exchange({ ctx, request, afterwards: "own" })));
    const going = exchanger.exchange({ ctx, request, abortAt: "follower's end" });
    await exchanger.until(({ joins }) => joins === 11);

    world.partner.gate("leader's end").open();
    assertCancelled(await leader);
    world.partner.gate("follower's end").open();
    assertCancelled(await going);
    await sleep(200);
    world.partner.valves.token.open();
    const outcomes = await followers;
    assert.deepEqual(tally(outcomes.map(({ token }) => token?.source)), { flight: 10 });
    assert.equal(world.partner.tokenRequests.length, 1);
    assert.equal((await exchanger.stats()).takeovers, 0);
    assert.equal((await exchanger.exchange({ ctx, request })).token.source, "memory");
    await assertNothingUnderWay(exchanger);
  });
}

test("a leader's signal whose flight nothing keeps alive: the followers take over", async () => {
  const exchanger = world.exchanger({ options: { timeoutMs: 3000 } });
  world.partner.valves.token.hold();
  const leader = exchanger.exchange({ ctx: "idle", request: requestOf("ada"), abortAt: "leader's end" });
  await world.partner.valves.token.arrived();
  const followers = Promise.all(Array.from({ length: 10 }, () => exchanger.exchange({ request: requestOf("ada") })));
  await exchanger.until(({ joins }) => joins === 10);
  world.partner.gate("leader's end").open();
  assertCancelled(await leader);
  await eventually("its connection gone", () => world.partner.tokenRequests[0].abandoned);
  world.partner.valves.token.open();
  assert.deepEqual(tally((await followers).map(({ token }) => token?.source)), { issuer: 1, flight: 9 });
  assert.equal(world.partner.tokenRequests.length, 2);
});

test("a signal that has fired before the call ends it before anything is asked", async () => {
  const exchanger = world.exchanger({ store: "remote" });
  assertCancelled(await exchanger.exchange({ request: requestOf("ada"), aborted: true }));
  await exchanger.exchange({ request: requestOf("ada") });
  assertCancelled(await exchanger.exchange({ request: requestOf("ada"), aborted: true }));
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("all callers cancel: the token is there for the next one", async () => {
  const exchanger = world.exchanger();
  world.partner.valves.token.hold();
  const calls = Array.from({ length: 10 }, () => exchanger.exchange({ request: requestOf("ada"), abortAt: "the end" }));
  await exchanger.until(({ joins }) => joins === 9);
  await world.partner.gate("the end").arrived(10);
  world.partner.gate("the end").open();
  for (const outcome of await Promise.all(calls)) assertCancelled(outcome);
  world.partner.valves.token.open();
  await exchanger.until(({ tokens }) => tokens === 1);
  assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "memory");
});

test("a token endpoint that never answers is unavailable, in time for every caller, and nothing is left under way", async () => {
  const exchanger = world.exchanger({ store: "kv", options: { timeoutMs } });
  world.partner.answer = "silent";
  const outcomes = await Promise.all(Array.from({ length: 10 }, () => bounded(exchanger.exchange({ request: requestOf("ada") }))));
  for (const outcome of outcomes) assertUnavailable(outcome);
  await assertNothingUnderWay(exchanger);
  await eventually("no connection kept", () => world.partner.tokenRequests.every(({ abandoned }) => abandoned));
  world.partner.answer = undefined;
  assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
});

test("a fetch option that never resolves and does not listen to its signal is unavailable, in time", async () => {
  const exchanger = world.exchanger({ fetch: "neverAnswers", options: { timeoutMs } });
  const outcomes = await Promise.all(Array.from({ length: 5 }, () => bounded(exchanger.exchange({ request: requestOf("ada") }))));
  for (const outcome of outcomes) assertUnavailable(outcome);
  await assertNothingUnderWay(exchanger);
});

test("a fetch option that throws, or answers what is no response, is unavailable", async () => {
  for (const fetch of ["throws", "answersAnObject"]) {
    const exchanger = world.exchanger({ fetch, options: { timeoutMs, retry: { delayMs: 0 } } });
    assertUnavailable(await bounded(exchanger.exchange({ request: requestOf("ada") })));
    await assertNothingUnderWay(exchanger);
  }
});

test("a binding with a fetch sends the token requests", async () => {
  const exchanger = world.exchanger({ fetch: "binding" });
  assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("a token endpoint that is not there, or resets, is unavailable", async () => {
  const absent = world.exchanger({ options: { tokenEndpoint: "http://127.0.0.1:1/token", retry: { delayMs: 0 } } });
  assertUnavailable(await absent.exchange({ request: requestOf("ada") }));
  await assertNothingUnderWay(absent);
  world.partner.answer = "reset";
  const exchanger = world.exchanger({ options: { retry: { delayMs: 0 } } });
  assertUnavailable(await exchanger.exchange({ request: requestOf("ada") }));
  await assertNothingUnderWay(exchanger);
});

test("a caller's time is its own: who joins late is not ended by the leader's", async () => {
  const exchanger = world.exchanger({ options: { timeoutMs: 1500, retry: { attempts: 1 } } });
  world.partner.answers.push("silent");
  const leader = exchanger.exchange({ request: requestOf("ada") });
  await world.partner.valves.token.arrived();
  await sleep(500);
  const follower = exchanger.exchange({ request: requestOf("ada") });
  assertUnavailable(await leader);
  // The flight's failure is for everybody who joined it.
  assertUnavailable(await bounded(follower));
  assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
});

function assertCancelled({ token, error }) {
  assert.equal(token, undefined);
  assert.deepEqual([error.isExchangeError, error.reason, error.retryable], [true, "cancelled", false]);
}

function assertUnavailable({ token, error }) {
  assert.equal(token, undefined);
  assert.deepEqual([error.isExchangeError, error.reason, error.retryable], [true, "unavailable", true]);
}
