/** What may go wrong around an exchange: no call hangs, no token is wrong, and at most one more token request is made. */

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { tokenResponse } from "./fixtures/partner.js";
import { eventually, requestOf, startWorld, tally } from "./fixtures/world.js";

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());
afterEach(() => world.setClock(0));

const accessTokens = (outcomes) => tally(outcomes.map(({ token, error }) => token?.accessToken ?? error.message));

/** Twenty calls at once, for one user each ten. */
function calls(exchanger, users = ["ada", "bob"]) {
  return Promise.all(users.flatMap((user) => Array.from({ length: 10 }, () => exchanger.exchange({ request: requestOf(user) }))));
}

for (const [store, failures] of [["putIsThrottled", 2], ["putNeverAnswers", 0], ["getNeverAnswers", 2], ["getRejects", 2]]) {
  test(`a store whose ${store} costs no token request and no call`, async () => {
    const exchanger = world.exchanger({ store, options: { timeoutMs: 4000 } });
    const outcomes = await calls(exchanger);
    assert.deepEqual(Object.values(accessTokens(outcomes)), [10, 10]);
    outcomes.forEach(({ token }, index) => assert.ok(token.accessToken.startsWith(`token-for-assertion-of-${index < 10 ? "ada" : "bob"}-`)));
    assert.equal(world.partner.tokenRequests.length, 2);
    await exchanger.until(({ storeFailures, flights }) => storeFailures >= 0 && flights === 0);
    if (failures) await eventually("the failures are counted", async () => (await exchanger.stats()).storeFailures === failures);
    await calls(exchanger);
    assert.equal(world.partner.tokenRequests.length, 2, "memory serves on");
  });
}

test("a store that answers yesterday's entry does not bring an evicted token back", async () => {
  const exchanger = world.exchanger({ store: "getIsStale" });
  const request = requestOf("ada");
  await exchanger.exchange({ request });
  await eventually("an entry", () => world.partner.entries.size === 1);
  for (let round = 2; round < 5; round += 1) {
    assert.deepEqual(await exchanger.evict(request), {});
    const outcomes = await Promise.all(Array.from({ length: 10 }, () => exchanger.exchange({ request })));
    assert.deepEqual(accessTokens(outcomes), { [`token-for-assertion-of-ada-${round}`]: 10 });
    assert.equal(world.partner.tokenRequests.length, round);
  }
});

test("a store that answers yesterday's entry of a token that has ended serves nobody", async () => {
  world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, world.partner.tokenRequests.length, { expires_in: 120 }) });
  const exchanger = world.exchanger({ store: "getIsStale" });
  await exchanger.exchange({ request: requestOf("ada") });
  await eventually("an entry", () => world.partner.entries.size === 1);
  await world.setClock(3 * 60_000);
  const { token } = await exchanger.exchange({ request: requestOf("ada") });
  assert.deepEqual([token.source, token.accessToken], ["issuer", "token-for-assertion-of-ada-2"]);
});

test("a store that answers another key's bytes gives nobody another's token", async () => {
  const exchanger = world.exchanger({ store: "getAnswersAnothers" });
  for (const user of ["ada", "bob", "eve"]) {
    const { token } = await exchanger.exchange({ request: requestOf(user) });
    assert.ok(token.accessToken.startsWith(`token-for-assertion-of-${user}-`));
    const { token: other } = await exchanger.exchange({ request: requestOf(user, { scopes: "files.write" }) });
    assert.equal(other.scope, "files.write");
  }
  assert.equal(world.partner.tokenRequests.length, 6);
  // The first read found nothing; what came of the others did not open.
  assert.equal((await exchanger.stats()).sealFailures, 5);
});

test("a clock that jumps back an hour costs one more token request at most, and no token outlives its end", async () => {
  const exchanger = world.exchanger({ store: "remote" });
  await world.setClock(3_600_000);
  await calls(exchanger);
  await world.setClock(0);
  const outcomes = await calls(exchanger);
  assert.deepEqual(Object.values(accessTokens(outcomes)), [10, 10]);
  for (const { token } of outcomes) assert.ok(token.expiresAt <= Date.now() + 3_600_000, "by the clock that is right");
  assert.equal(world.partner.tokenRequests.length, 4, "one more for each user");
  await calls(exchanger);
  assert.equal(world.partner.tokenRequests.length, 4);
});

test("a clock that jumps back an hour in the middle of an exchange leaves nobody behind", async () => {
  const exchanger = world.exchanger({ options: { timeoutMs: 3000 } });
  world.partner.valves.token.hold();
  const waiting = calls(exchanger, ["ada"]);
  await exchanger.until(({ joins }) => joins === 9);
  await world.setClock(-3_600_000);
  const later = calls(exchanger, ["ada"]);
  world.partner.valves.token.open();
  const outcomes = [...(await waiting), ...(await later)];
  assert.equal(outcomes.filter(({ token }) => token?.accessToken.startsWith("token-for-assertion-of-ada-")).length, 20);
  assert.ok(world.partner.tokenRequests.length <= 2, `${world.partner.tokenRequests.length}`);
});

test("an hour ahead and back, a hold and a remembered failure end with the clock that made them", async () => {
  const exchanger = world.exchanger({ options: { retry: { attempts: 1 } } });
  await world.setClock(3_600_000);
  world.partner.answers.push({ status: 429, headers: { "retry-after": "3600" }, body: "" }, { status: 400, body: { error: "invalid_grant" } });
  assert.equal((await exchanger.exchange({ request: requestOf("ada") })).error.reason, "throttled");
  assert.equal((await exchanger.exchange({ request: requestOf("bob") })).error.reason, "throttled");
  await world.setClock(0);
  assert.equal((await exchanger.exchange({ request: requestOf("bob") })).error.reason, "assertion_rejected");
  assert.ok((await exchanger.exchange({ request: requestOf("ada") })).token);
});

test("a trap in the middle of an exchange loses no call, and the next one works", async () => {
  const exchanger = world.exchanger({ store: "remote", options: { timeoutMs: 4000 } });
  world.partner.valves.token.hold();
  const waiting = calls(exchanger, ["ada"]);
  await world.partner.valves.token.arrived();
  await world.breakInstance();
  world.partner.valves.token.open();
  const outcomes = [...(await waiting), await exchanger.exchange({ request: requestOf("ada") })];
  assert.equal(outcomes.filter(({ token }) => token?.accessToken.startsWith("token-for-assertion-of-ada-")).length, 11);
  assert.ok(world.partner.tokenRequests.length <= 2, `${world.partner.tokenRequests.length}`);
});
