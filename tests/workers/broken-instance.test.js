/** The wasm instance breaks in the middle of things. No call hangs, none answers nonsense, and all goes on. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { eventually, requestOf, sleep, startWorld } from "./fixtures/world.js";

/** A call ends within its time, and this for a slow machine. */
const toleranceMs = 1000;
const users = Array.from({ length: 10 }, (_, index) => `user-${index}`);

// Each test has an isolate of its own, so that what one leaves broken does not fail another.
let world;
beforeEach(async () => (world = await startWorld()));
afterEach(() => world.close());

/** The outcome of a call, which must not have taken longer than that. */
async function within(milliseconds, call) {
  const start = performance.now();
  const outcome = await call;
  const took = Math.round(performance.now() - start);
  assert.ok(took <= milliseconds, `it took ${took} ms and not ${milliseconds}`);
  return outcome;
}

/** Three calls for each user, each in a request of its own. */
function callsOfAll(exchanger, timeoutMs, members) {
  return Promise.all(
    [...users, ...users, ...users].map(async (user) => {
      const { token, error } = await within(timeoutMs + toleranceMs, exchanger.exchange({ request: requestOf(user), ...members }));
      return { user, token, error };
    }),
  );
}

function assertOwnTokens(outcomes) {
  for (const { user, token, error } of outcomes) {
    assert.equal(error, undefined);
    assert.match(token.accessToken, new RegExp(`^token-for-assertion-of-${user}-\\d+$`));
    assert.deepEqual([token.tokenType, token.scope], ["Bearer", "files.read"]);
  }
}

/** A fresh instance is at work, and nothing is left under way. */
async function assertGoesOn(exchanger) {
  const first = await within(2000, exchanger.exchange({ request: requestOf("afterwards", { fromCache: false }) }));
  assert.equal(first.token?.source, "issuer", JSON.stringify(first.error));
  const second = await within(2000, exchanger.exchange({ request: requestOf("afterwards") }));
  assert.deepEqual([second.token?.source, second.token?.accessToken], ["memory", first.token.accessToken]);
  // A flight has its own time, however little its caller had left.
  await exchanger.until(({ flights }) => flights === 0);
}

for (const how of ["all", "heap"]) {
  test(`the instance breaks while token requests are under way, round after round: every call gets its own user's token (memory: ${how})`, async () => {
    const timeoutMs = 2000;
    for (let round = 0; round < 5; round += 1) {
      // New ones each round: what the last round got is in the memory of the instance that came after the break.
      const exchanger = world.exchanger({ options: { timeoutMs } });
      const another = world.exchanger({ options: { timeoutMs, clientId: "another" } });
      world.partner.reset();
      world.partner.valves.token.hold();
      const calls = Promise.all([callsOfAll(exchanger, timeoutMs), callsOfAll(another, timeoutMs)]);
      await world.partner.valves.token.arrived(2 * users.length);
      await exchanger.until(({ flights, joins }) => flights === users.length && joins === 2 * users.length);
      await world.breakInstance(how);
      world.partner.valves.token.open();
      for (const outcomes of await calls) assertOwnTokens(outcomes);
      await assertGoesOn(exchanger);
      await assertGoesOn(another);
    }
  });
}

test("a new call finds the instance broken while others wait: it works at once, and so do they", async () => {
  const timeoutMs = 2000;
  for (let round = 0; round < 3; round += 1) {
    const exchanger = world.exchanger({ options: { timeoutMs } });
    world.partner.valves.token.hold();
    const calls = callsOfAll(exchanger, timeoutMs);
    await world.partner.valves.token.arrived(users.length);
    await world.breakInstance();
    world.partner.valves.token.open();
    await assertGoesOn(exchanger);
    assertOwnTokens(await calls);
  }
});

test("the instance breaks between calls: what was in memory is lost, and the next call works", async () => {
  const exchanger = world.exchanger();
  for (let round = 0; round < 5; round += 1) {
    await exchanger.exchange({ request: requestOf("ada") });
    assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "memory");
    await world.breakInstance();
    assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token?.source, "issuer");
    const { memoryHits, tokenRequests } = await exchanger.stats();
    assert.deepEqual({ memoryHits, tokenRequests }, { memoryHits: 0, tokenRequests: 1 });
  }
});

test("the instance of one exchanger breaks before another is constructed: it is", async () => {
  await world.exchanger().exchange({ request: requestOf("ada") });
  await world.breakInstance();
  await assertGoesOn(world.exchanger());
});

for (const what of ["evict", "stats"]) {
  test(`the instance breaks before ${what}: it says so or works, and what comes next works`, async () => {
    const exchanger = world.exchanger({ store: "remote" });
    await exchanger.exchange({ request: requestOf("ada") });
    await world.breakInstance();
    if (what === "evict") {
      const { error } = await exchanger.evict(requestOf("ada"));
      if (error) assert.deepEqual([error.isExchangeError, error.reason, error.retryable], [true, "unavailable", true]);
    } else {
      assert.equal((await exchanger.stats()).flights, 0);
    }
    await assertGoesOn(exchanger);
  });
}

for (const [phase, { hold, reached, goOn, settings }] of Object.entries({
  "while the store is read": {
    hold: ({ valves }) => valves.storeGet.hold(),
    reached: ({ valves }) => valves.storeGet.arrived(users.length),
    goOn: ({ valves }) => valves.storeGet.open(),
  },
  "during the sleep before a retry": {
    hold: ({ answers }) => answers.push(...users.map(() => 503)),
    reached: ({ tokenRequests }) => eventually("all answered", () => tokenRequests.filter(({ answered }) => answered).length === users.length),
    goOn() {},
    settings: { retry: { delayMs: 500 } },
  },
})) {
  test(`the instance breaks ${phase}: every call gets its own user's token`, async () => {
    const timeoutMs = 3000;
    const exchanger = world.exchanger({ store: "remote", options: { timeoutMs, ...settings } });
    hold(world.partner);
    const calls = callsOfAll(exchanger, timeoutMs);
    await reached(world.partner);
    await world.breakInstance();
    goOn(world.partner);
    assertOwnTokens(await calls);
    await assertGoesOn(exchanger);
  });
}

test("the instance breaks while the store is written: the token was answered, and the next call works", async () => {
  const exchanger = world.exchanger({ store: "remote" });
  world.partner.valves.storePut.hold();
  const { token } = await exchanger.exchange({ request: requestOf("ada") });
  assert.equal(token.source, "issuer");
  await world.partner.valves.storePut.arrived();
  await world.breakInstance();
  world.partner.valves.storePut.open();
  await assertGoesOn(exchanger);
});

test("the instance breaks and the token endpoint stays silent: every call ends in its time, as unavailable", async () => {
  const timeoutMs = 4000;
  const exchanger = world.exchanger({ options: { timeoutMs } });
  world.partner.answer = "silent";
  const calls = callsOfAll(exchanger, timeoutMs);
  await world.partner.valves.token.arrived(users.length);
  await world.breakInstance();
  for (const { error } of await calls) assert.deepEqual([error?.isExchangeError, error?.reason], [true, "unavailable"]);
  world.partner.answer = undefined;
  await assertGoesOn(exchanger);
});

test("the instance breaks again and again under the same calls: each ends in its time", async () => {
  const timeoutMs = 4000;
  const exchanger = world.exchanger({ options: { timeoutMs, retry: { attempts: 5 } } });
  world.partner.answer = "silent";
  const calls = callsOfAll(exchanger, timeoutMs);
  for (let round = 1; round <= 4; round += 1) {
    await world.partner.valves.token.arrived(round * users.length);
    await world.breakInstance();
    await sleep(100);
  }
  for (const { error } of await calls) assert.deepEqual([error?.isExchangeError, error?.reason], [true, "unavailable"]);
  world.partner.answer = undefined;
  await assertGoesOn(exchanger);
});

test("a signal ends the wait for a flight that was lost with the instance", async () => {
  const exchanger = world.exchanger();
  world.partner.answer = "silent";
  const call = exchanger.exchange({ request: requestOf("ada"), abortAt: "the end" });
  await world.partner.gate("the end").arrived();
  await world.partner.valves.token.arrived();
  await world.breakInstance();
  world.partner.gate("the end").open();
  assert.equal((await within(1000, call)).error?.reason, "cancelled");
  world.partner.answer = undefined;
  await assertGoesOn(exchanger);
});

test("the instance breaks during an eviction: it ends", async () => {
  const exchanger = world.exchanger({ store: "remote" });
  await exchanger.exchange({ request: requestOf("ada") });
  world.partner.valves.storeDelete.hold();
  const eviction = exchanger.evict(requestOf("ada"));
  await world.partner.valves.storeDelete.arrived();
  await world.breakInstance();
  await assertGoesOn(exchanger);
  world.partner.valves.storeDelete.open();
  // As long as a removal may take, which is a bound of its own.
  await within(5000 + toleranceMs, eviction);
});

test("the leader's client goes and the instance breaks: its followers get the token", async () => {
  const timeoutMs = 3000;
  const exchanger = world.exchanger({ options: { timeoutMs } });
  world.partner.valves.token.hold();
  const leader = world.depart([exchanger.parameters({ request: requestOf("user-0") })]);
  await world.partner.valves.token.arrived();
  const calls = callsOfAll(exchanger, timeoutMs);
  await exchanger.until(({ flights, joins }) => flights === users.length && joins === 2 * users.length + 1);
  await leader.leave();
  await world.breakInstance();
  world.partner.valves.token.open();
  assertOwnTokens(await calls);
  await assertGoesOn(exchanger);
});
