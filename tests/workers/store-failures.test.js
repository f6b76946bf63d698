/** A store is a hint: whatever it does, the exchange works, and the operator hears of it. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { eventually, requestOf, startWorld } from "./fixtures/world.js";

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

for (const { store, does, counter, type } of [
  { store: "getThrows", does: "whose get throws", counter: "storeFailures", type: "store_failure" },
  { store: "getRejects", does: "whose get rejects", counter: "storeFailures", type: "store_failure" },
  { store: "getNeverAnswers", does: "whose get never answers", counter: "storeFailures", type: "store_failure" },
  { store: "getAnswersNoise", does: "that answers what looks like an entry", counter: "sealFailures", type: "seal_failure" },
  { store: "getAnswersBytes", does: "that answers bytes", counter: "sealFailures", type: "seal_failure" },
  { store: "getAnswersAnObject", does: "that answers an object", counter: "sealFailures", type: "seal_failure" },
  { store: "putThrows", does: "whose put throws", counter: "storeFailures", type: "store_failure" },
  { store: "putRejects", does: "whose put rejects", counter: "storeFailures", type: "store_failure" },
]) {
  test(`a store ${does} is no reason to fail: it is counted and reported`, async () => {
    const exchanger = world.exchanger({ store, options: { timeoutMs: 2000 } });
    const outcomes = await Promise.all(Array.from({ length: 5 }, () => exchanger.exchange({ request: requestOf("ada") })));
    for (const { token } of outcomes) assert.equal(token?.accessToken, "token-for-assertion-of-ada-1");
    assert.equal(world.partner.tokenRequests.length, 1);
    await exchanger.until((stats) => stats[counter] === 1);
    const { storeFailures, sealFailures, failures, flights } = await exchanger.stats();
    assert.deepEqual({ storeFailures, sealFailures, failures, flights }, { storeFailures: 0, sealFailures: 0, failures: 0, flights: 0, [counter]: 1 });
    assert.deepEqual((await exchanger.events()).filter((event) => event.type.endsWith("_failure")), [{ type }]);
    assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "memory");
  });
}

test("a store whose put never answers keeps nobody waiting, and is counted and reported in the end", async () => {
  const exchanger = world.exchanger({ store: "putNeverAnswers" });
  const { token } = await exchanger.exchange({ request: requestOf("ada") });
  assert.equal(token.source, "issuer");
  assert.equal((await exchanger.stats()).flights, 0);
  await eventually("the write given up", async () => (await exchanger.stats()).storeFailures === 1, 15_000);
  assert.deepEqual((await exchanger.events()).at(-1), { type: "store_failure" });
});

test("a store may answer without a promise", async () => {
  const exchanger = world.exchanger({ store: "getAnswersAtOnce" });
  assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
  assert.equal((await exchanger.stats()).storeFailures, 0);
});

for (const store of ["deleteRejects", "deleteNeverAnswers"]) {
  test(`an eviction says so where the store does not remove the token (${store})`, async () => {
    const exchanger = world.exchanger({ store });
    await exchanger.exchange({ request: requestOf("ada") });
    const { error } = await exchanger.evict(requestOf("ada"));
    assert.deepEqual([error.isExchangeError, error.reason, error.retryable], [true, "unavailable", true]);
    await exchanger.until(({ storeFailures }) => storeFailures === 1);
    assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
  });
}
