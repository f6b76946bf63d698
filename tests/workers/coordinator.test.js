/** One exchange per key in the world: isolates that share a coordinator, and what becomes of them where it fails. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { tokenResponse } from "./fixtures/partner.js";
import { eventually, requestOf, sleep, startWorld, tally } from "./fixtures/world.js";

const isolates = ["exchange", "neighbour", "third"];

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(async () => {
  world.partner.reset();
  for (const { name } of (await world.store.list()).keys) await world.store.delete(name);
});

/** An exchanger with the coordinator in each of three isolates. */
function exchangers(settings = {}) {
  return isolates.map((isolate) => world.exchanger({ store: "kv", coordinator: "bound", ...settings }, isolate));
}

/** A user whom no other test knows: the objects keep what they have. */
let users = 0;
const newUser = () => `user-${(users += 1)}`;

/** The name of the one object that was asked, which is the name in the store. */
async function nameInStore() {
  await eventually("an entry in the store", async () => (await world.store.list()).keys.length === 1);
  return (await world.store.list()).keys[0].name;
}

const accessTokens = (outcomes) => tally(outcomes.map(({ token, error }) => token?.accessToken ?? error.message));

test("300 concurrent calls in three isolates for one key make one token request", async () => {
  const user = newUser();
  world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, 0) });
  world.partner.valves.token.hold();
  const all = exchangers();
  const calls = all.flatMap((exchanger) => Array.from({ length: 100 }, () => exchanger.exchange({ request: requestOf(user) })));
  for (const exchanger of all) await exchanger.until(({ joins }) => joins === 99);
  world.partner.valves.token.open();
  assert.deepEqual(accessTokens(await Promise.all(calls)), { [`token-for-assertion-of-${user}-0`]: 300 });
  assert.equal(world.partner.tokenRequests.length, 1);
  const stats = await Promise.all(all.map((exchanger) => exchanger.stats()));
  assert.deepEqual(stats.map(({ coordinatorHits, coordinatorFailures, tokenRequests }) => [coordinatorHits, coordinatorFailures, tokenRequests]), Array(3).fill([1, 0, 0]));
  // One of the three writes it.
  await nameInStore();
});

test("users and scopes have an object each, and a token each", async () => {
  const [ada, bob] = [newUser(), newUser()];
  const requests = [requestOf(ada), requestOf(bob), requestOf(ada, { scopes: "files.write" })];
  const outcomes = await Promise.all(exchangers().flatMap((exchanger) => requests.map((request) => exchanger.exchange({ request }))));
  assert.equal(world.partner.tokenRequests.length, 3);
  assert.equal(Object.keys(accessTokens(outcomes)).length, 3);
  outcomes.forEach(({ token }, index) => {
    const { assertion, scopes } = requests[index % 3];
    assert.ok(token.accessToken.startsWith(`token-for-${assertion}-`));
    assert.equal(token.scope, scopes);
  });
});

test("an object answers only what its name is computed from, and does nothing for anything else", async () => {
  const request = requestOf(newUser());
  await exchangers()[0].exchange({ request });
  const name = await nameInStore();
  const asked = { assertion: request.assertion, scopes: [request.scopes] };
  const ask = (call, method = "exchange") => world.askCoordinator(name, method, call);
  assert.match((await ask({ request: asked, fromCache: true, shared: false })).value, /^memory 2\.[\w-]+$/);
  for (const [what, call] of Object.entries({
    "another user": { request: { ...asked, assertion: "assertion-of-eve" } },
    "other scopes": { request: { ...asked, scopes: ["files.write"] } },
    "no scopes": { request: { assertion: request.assertion } },
    "claims": { request: { ...asked, claims: "{}" } },
    "an unknown field": { request: { ...asked, tokenEndpoint: "https://evil.example" } },
    "an exchanger that is not configured": { request: asked, exchanger: "misconfigured" },
    "a subject that nobody verified": { request: asked, shared: true },
    "no request": {},
    "nothing": undefined,
  })) {
    for (const method of ["exchange", "evict"]) assert.ok((await ask(call, method)).error, `${what}: ${method}`);
  }
  // A subject that the caller names is not looked at.
  assert.match((await ask({ request: { ...asked, subject: { issuer: "i", id: "eve" } }, fromCache: true })).value, /^memory /);
  assert.ok((await world.askCoordinator("a name", "exchange", { request: asked })).error);
  assert.deepEqual((await world.askCoordinator("a name", "peek")).value, { entries: [], alarm: null });
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("an object keeps the sealed token and nothing else, until its end", async () => {
  const user = newUser();
  const before = Date.now();
  const { token } = await exchangers()[0].exchange({ request: requestOf(user) });
  const name = await nameInStore();
  const { value } = await world.askCoordinator(name, "peek");
  assert.deepEqual(value.entries.map(([key]) => key), [name]);
  assert.match(value.entries[0][1], /^2\.[\w-]+$/);
  const shown = `${JSON.stringify(value)} ${Buffer.from(value.entries[0][1].slice(2), "base64url").toString("latin1")}`;
  for (const secret of [token.accessToken, user, "files.read", "hunter2"]) assert.ok(!shown.includes(secret), secret);
  const lifeMs = 3_590_000;
  assert.ok(value.alarm >= before + lifeMs - 2000 && value.alarm <= Date.now() + lifeMs, `${value.alarm - before}`);
  await world.askCoordinator(name, "end");
  assert.deepEqual((await world.askCoordinator(name, "peek")).value.entries, []);
});

test("an object that was reset has its token still", async () => {
  const request = requestOf(newUser());
  const [one, two] = exchangers({ store: undefined });
  const first = await one.exchange({ request });
  await world.askCoordinator(await world.objectOf(request), "reset");
  const outcome = await two.exchange({ request });
  assert.deepEqual([outcome.token.accessToken, outcome.token.expiresAt, outcome.token.source], [first.token.accessToken, first.token.expiresAt, "store"]);
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("what the identity provider answers the coordinator is every caller's answer, by one token request", async () => {
  for (const [answer, expected] of [
    [{ status: 400, body: { error: "interaction_required", error_codes: [50076], claims: '{"a":1}', correlation_id: "3f6d1c4e-0000" } }, { reason: "interaction_required", status: 400, errorCodes: [50076], claims: '{"a":1}', correlationId: "3f6d1c4e-0000", retryable: false }],
    [{ status: 400, body: { error: "invalid_grant" } }, { reason: "assertion_rejected", status: 400, error: "invalid_grant", retryable: false }],
    [{ status: 400, body: { error: "invalid_grant", error_codes: [50196] } }, { reason: "throttled", status: 400, errorCodes: [50196], retryable: true }],
  ]) {
    world.partner.reset();
    world.partner.answer = answer;
    const request = requestOf(newUser());
    const outcomes = await Promise.all(exchangers().flatMap((exchanger) => [1, 2, 3].map(() => exchanger.exchange({ request }))));
    for (const { error } of outcomes) {
      assert.ok(error.isExchangeError);
      for (const [name, value] of Object.entries(expected)) assert.deepEqual(error[name], value, name);
    }
    assert.equal(world.partner.tokenRequests.length, 1, expected.reason);
  }
});

test("a 429 to the coordinator holds the isolates that were told, for every user", async () => {
  world.partner.answers.push({ status: 429, headers: { "retry-after": "30" }, body: { error: "slow_down" } });
  const [exchanger] = exchangers();
  assert.equal((await exchanger.exchange({ request: requestOf(newUser()) })).error.retryAfter, 30);
  const { error } = await exchanger.exchange({ request: requestOf(newUser()) });
  assert.deepEqual([error.reason, error.status, world.partner.tokenRequests.length], ["throttled", 429, 1]);
  assert.equal((await exchanger.stats()).throttles, 1);
});

test("renewed sign-ins of a subject share a token where the coordinator verifies it, and where it does not the isolate exchanges", async () => {
  const user = newUser();
  const subject = { issuer: "https://issuer.example", id: user };
  const request = (number, id = user) => ({ assertion: `assertion-of-${user}#${number}`, scopes: "files.read", subject: { ...subject, id } });
  const verified = isolates.map((isolate) => world.exchanger({ coordinator: "bound", options: { name: "verifies" } }, isolate));
  const outcomes = await Promise.all(verified.map((exchanger, number) => exchanger.exchange({ request: request(number) })));
  assert.equal(Object.keys(accessTokens(outcomes)).length, 1);
  assert.equal(world.partner.tokenRequests.length, 1);
  // Who says that it is another's gets no object to answer for that.
  const lie = await verified[1].exchange({ request: request(9, "eve") });
  assert.ok(lie.token.accessToken.startsWith(`token-for-assertion-of-${user}#9-`));
  assert.equal((await verified[1].stats()).coordinatorFailures, 1);

  const [unverified] = exchangers();
  assert.equal((await unverified.exchange({ request: request(1) })).token.source, "issuer");
  const { coordinatorFailures, tokenRequests } = await unverified.stats();
  assert.deepEqual({ coordinatorFailures, tokenRequests }, { coordinatorFailures: 1, tokenRequests: 1 });
});

describe("where the coordinator fails, the isolate exchanges by itself and says so", () => {
  for (const coordinator of ["throws", "rejects", "neverAnswers", "answersNoise", "answersAnObject"]) {
    test(`it ${coordinator}`, async () => {
      const user = newUser();
      const exchanger = world.exchanger({ coordinator, options: { timeoutMs: 2000 } });
      const started = performance.now();
      const outcomes = await Promise.all(Array.from({ length: 20 }, () => exchanger.exchange({ request: requestOf(user) })));
      assert.deepEqual(accessTokens(outcomes), { [`token-for-assertion-of-${user}-1`]: 20 });
      assert.ok(performance.now() - started < 4000, "within its own time");
      const events = (await exchanger.events()).map(({ type }) => type);
      assert.equal(events.filter((type) => type === "coordinator_failure").length, 1);
      assert.equal(world.partner.tokenRequests.length, 1);
    });
  }

  test("its object is reset in the middle", async () => {
    const user = newUser();
    const name = await world.objectOf(requestOf(user));
    world.partner.valves.token.hold();
    const all = exchangers({ store: undefined });
    const calls = all.map((exchanger) => exchanger.exchange({ request: requestOf(user) }));
    await world.partner.valves.token.arrived();
    await world.askCoordinator(name, "reset");
    // Each isolate by itself; the object is back for the next ones.
    await world.partner.valves.token.arrived(4);
    world.partner.valves.token.open();
    for (const { token } of await Promise.all(calls)) assert.ok(token.accessToken.startsWith(`token-for-assertion-of-${user}-`));
    for (const exchanger of all) assert.equal((await exchanger.stats()).coordinatorFailures, 1);
  });

  test("the wasm instance breaks under its object", async () => {
    const user = newUser();
    world.partner.valves.token.hold();
    const [, neighbour, third] = exchangers({ options: { timeoutMs: 3000 } });
    const calls = [neighbour, third].map((exchanger) => exchanger.exchange({ request: requestOf(user) }));
    await world.partner.valves.token.arrived();
    await world.breakInstance();
    world.partner.valves.token.open();
    for (const { token } of await Promise.all(calls)) assert.ok(token.accessToken.startsWith(`token-for-assertion-of-${user}-`));
    assert.ok(world.partner.tokenRequests.length <= 4, `${world.partner.tokenRequests.length}`);
    const later = await third.exchange({ request: requestOf(newUser()) });
    assert.ok(later.token);
    assert.ok((await third.stats()).coordinatorHits >= 1, "the object works again");
  });
});

test("a leader that leaves while the coordinator is asked leaves nobody behind", async () => {
  const user = newUser();
  world.partner.valves.token.hold();
  const exchanger = world.exchanger({ coordinator: "bound" }, "exchange");
  const leader = await world.depart([exchanger.parameters({ request: requestOf(user) })]);
  await world.partner.valves.token.arrived();
  const followers = Array.from({ length: 10 }, () => exchanger.exchange({ request: requestOf(user) }));
  await exchanger.until(({ joins }) => joins === 10);
  await leader.leave();
  await sleep(200);
  world.partner.valves.token.open();
  assert.deepEqual(accessTokens(await Promise.all(followers)), { [`token-for-assertion-of-${user}-1`]: 10 });
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("an eviction reaches the coordinator: the next exchange is a fresh one in every isolate that asks", async () => {
  const user = newUser();
  const request = requestOf(user);
  const [one, two] = exchangers();
  await one.exchange({ request });
  await nameInStore();
  assert.deepEqual(await one.evict(request), {});
  assert.equal((await two.exchange({ request })).token.accessToken, `token-for-assertion-of-${user}-2`);
  assert.equal((await one.exchange({ request })).token.accessToken, `token-for-assertion-of-${user}-2`);
  assert.equal(world.partner.tokenRequests.length, 2);
});

test("an eviction by one exchanger reaches what another has in the same object", async () => {
  const request = requestOf(newUser());
  const [one, two] = ["one", "two"].map((name, number) => world.exchanger({ coordinator: "bound", options: { name } }, isolates[number]));
  const first = await one.exchange({ request });
  assert.equal((await two.exchange({ request })).token.accessToken, first.token.accessToken, "their storage is one");
  assert.deepEqual(await one.evict(request), {});
  const asked = { request: { assertion: request.assertion, scopes: [request.scopes] }, fromCache: true, shared: false };
  const name = await world.objectOf(request);
  assert.match((await world.askCoordinator(name, "exchange", { ...asked, exchanger: "two" })).value, /^issuer /);
  assert.equal(world.partner.tokenRequests.length, 2);
});

test("an object that was made without a name does nothing, and costs the others nothing", async () => {
  const request = requestOf(newUser());
  const exchanger = world.exchanger();
  await exchanger.exchange({ request });
  const asked = { request: { assertion: request.assertion, scopes: [request.scopes] }, fromCache: true, shared: false };
  for (const method of ["exchange", "evict"]) assert.match((await world.askCoordinator(null, method, asked)).error, /for another object/);
  // The objects share the isolate's instance, which was not given up.
  assert.equal((await exchanger.exchange({ request })).token.source, "memory");
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("a coordinator that cannot evict fails the eviction, and its old token is not taken here", async () => {
  const user = newUser();
  const request = requestOf(user);
  const exchanger = world.exchanger({ coordinator: "rejects" });
  await exchanger.exchange({ request });
  assert.equal((await exchanger.evict(request)).error.reason, "unavailable");
  assert.equal((await exchanger.exchange({ request })).token.accessToken, `token-for-assertion-of-${user}-2`);
});

test("what is wanted past the caches is exchanged anew there, and everybody's from then on", async () => {
  const user = newUser();
  const [one, two] = exchangers({ store: undefined });
  await one.exchange({ request: requestOf(user) });
  const forced = await one.exchange({ request: requestOf(user, { fromCache: false }) });
  assert.deepEqual([forced.token.accessToken, forced.token.source], [`token-for-assertion-of-${user}-2`, "issuer"]);
  assert.equal((await two.exchange({ request: requestOf(user) })).token.accessToken, `token-for-assertion-of-${user}-2`);
});
