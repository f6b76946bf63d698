/** Many calls for one key in one isolate make one token request. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { eventually, requestOf, startWorld, tally } from "./fixtures/world.js";

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

const times = (count, make) => Promise.all(Array.from({ length: count }, (_, index) => make(index)));

for (const ctx of ["none", "given"]) {
  test(`100 requests for one key share one token request, and each does I/O of its own afterwards (ctx: ${ctx})`, async () => {
    const exchanger = world.exchanger();
    await world.store.put("probe", "a value of Workers KV");
    world.partner.valves.token.hold();
    const answers = times(100, (index) => exchanger.exchange({ ctx, request: requestOf("ada"), afterwards: `${index}` }));
    await exchanger.until(({ joins }) => joins === 99);
    world.partner.valves.token.open();

    const outcomes = await answers;
    assert.deepEqual(tally(outcomes.map(({ token }) => token.source)), { issuer: 1, flight: 99 });
    assert.deepEqual(tally(outcomes.map(({ token }) => token.accessToken)), { "token-for-assertion-of-ada-1": 100 });
    outcomes.forEach(({ afterwards }, index) => {
      assert.deepEqual(afterwards, { fetched: `you asked for /echo/${index}`, read: "a value of Workers KV" });
    });
    assert.equal(world.partner.tokenRequests.length, 1);
    const { tokenRequests, joins, takeovers, flights } = await exchanger.stats();
    assert.deepEqual({ tokenRequests, joins, takeovers, flights }, { tokenRequests: 1, joins: 99, takeovers: 0, flights: 0 });
  });
}

test("100 calls within one request share one token request", async () => {
  const exchanger = world.exchanger();
  const outcomes = await exchanger.exchangeMany(Array.from({ length: 100 }, () => ({ request: requestOf("ada") })));
  assert.deepEqual(tally(outcomes.map(({ token }) => token.source)), { issuer: 1, flight: 99 });
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("calls that differ in their scopes do not share a token request, in their order they do", async () => {
  const exchanger = world.exchanger();
  world.partner.valves.token.hold();
  const scopes = ["a b", "b a", ["b", "a"], "a", "b"];
  const answers = Promise.all(scopes.map((each) => exchanger.exchange({ request: requestOf("ada", { scopes: each }) })));
  await world.partner.valves.token.arrived(3);
  await exchanger.until(({ joins }) => joins === 2);
  world.partner.valves.token.open();
  const outcomes = await answers;
  assert.deepEqual(outcomes.map(({ token }) => token.scope), ["a b", "a b", "a b", "a", "b"]);
  assert.equal(world.partner.tokenRequests.length, 3);
});

test("a failure reaches everybody who waits, each as an error of its own, and the next call asks again", async () => {
  const exchanger = world.exchanger();
  world.partner.answers.push({ status: 400, body: { error: "invalid_client" } });
  world.partner.valves.token.hold();
  const answers = times(20, () => exchanger.exchange({ request: requestOf("ada") }));
  await exchanger.until(({ joins }) => joins === 19);
  world.partner.valves.token.open();
  for (const { error } of await answers) {
    assert.equal(error.isExchangeError, true);
    assert.equal(error.reason, "misconfigured");
  }
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("fromCache: false neither joins what is under way nor is joined", async () => {
  const exchanger = world.exchanger();
  world.partner.valves.token.hold();
  const shared = exchanger.exchange({ request: requestOf("ada") });
  await world.partner.valves.token.arrived(1);
  const fresh = [1, 2].map(() => exchanger.exchange({ request: requestOf("ada", { fromCache: false }) }));
  await world.partner.valves.token.arrived(3);
  // It must join the first one, which is the only one that may be joined.
  const follower = exchanger.exchange({ request: requestOf("ada") });
  await exchanger.until(({ joins }) => joins === 1);
  world.partner.valves.token.open();

  const [leader, first, second, joined] = (await Promise.all([shared, ...fresh, follower])).map(({ token }) => token);
  assert.deepEqual([leader, first, second, joined].map(({ source }) => source), ["issuer", "issuer", "issuer", "flight"]);
  assert.equal(joined.accessToken, leader.accessToken);
  assert.equal(new Set([leader, first, second].map(({ accessToken }) => accessToken)).size, 3);
  assert.equal(world.partner.tokenRequests.length, 3);
});

test("nobody joins a fromCache: false that is the only one under way", async () => {
  const exchanger = world.exchanger();
  world.partner.valves.token.hold();
  const fresh = exchanger.exchange({ request: requestOf("ada", { fromCache: false }) });
  await world.partner.valves.token.arrived(1);
  const shared = exchanger.exchange({ request: requestOf("ada") });
  await world.partner.valves.token.arrived(2);
  world.partner.valves.token.open();
  assert.deepEqual((await Promise.all([fresh, shared])).map(({ token }) => token.source), ["issuer", "issuer"]);
  assert.equal((await exchanger.stats()).joins, 0);
});

test("fromCache: false passes memory and store by, and overwrites both", async () => {
  const exchanger = world.exchanger({ store: "remote" });
  await exchanger.exchange({ request: requestOf("ada") });
  await eventually("an entry in the store", () => world.partner.entries.size === 1);
  const [[name, { value }]] = world.partner.entries;
  const { token } = await exchanger.exchange({ request: requestOf("ada", { fromCache: false }) });
  assert.deepEqual([token.source, token.accessToken], ["issuer", "token-for-assertion-of-ada-2"]);
  const remembered = await exchanger.exchange({ request: requestOf("ada") });
  assert.deepEqual([remembered.token.source, remembered.token.accessToken], ["memory", "token-for-assertion-of-ada-2"]);
  assert.equal((await exchanger.stats()).storeHits, 0);
  assert.deepEqual([...world.partner.entries.keys()], [name]);
  await eventually("another value in the store", () => world.partner.entries.get(name).value !== value);
});
