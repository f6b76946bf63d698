/** Many users at once: nobody ever gets another user's token, and isolates share through the store. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { tokenResponse } from "./fixtures/partner.js";
import { eventually, requestOf, sleep, startWorld, tally } from "./fixtures/world.js";

const userCount = 50;
const callCount = 4;

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

/** Every user's calls, one user after the other in each round, so that they interleave. */
const interleaved = Array.from({ length: userCount * callCount }, (_, index) => `user-${index % userCount}`);

function assertOwn(user, { token, error }) {
  assert.equal(error, undefined);
  assert.match(token.accessToken, new RegExp(`^token-for-assertion-of-${user}-\\d+$`));
}

for (const ctx of ["none", "given"]) {
  test(`${userCount} users with ${callCount} interleaved calls each get their own tokens, by one token request each (ctx: ${ctx})`, async () => {
    const exchanger = world.exchanger({ store: "kv" });
    world.partner.valves.token.hold();
    // The namespace is the same for all tests of this file.
    const users = interleaved.map((user) => `${ctx}-${user}`);
    const answers = Promise.all(users.map((user) => exchanger.exchange({ ctx, request: requestOf(user), afterwards: user })));
    await world.partner.valves.token.arrived(userCount);
    await exchanger.until(({ joins }) => joins === userCount * (callCount - 1));
    world.partner.valves.token.open();
    const outcomes = await answers;
    outcomes.forEach((outcome, index) => {
      assertOwn(users[index], outcome);
      assert.equal(outcome.afterwards.fetched, `you asked for /echo/${users[index]}`);
    });
    assert.deepEqual(tally(outcomes.map(({ token }) => token.source)), { issuer: userCount, flight: userCount * (callCount - 1) });
    assert.equal(world.partner.tokenRequests.length, userCount);
  });
}

test("users whose answers come in another order than they asked in, some of them failures, get what is theirs", async () => {
  const exchanger = world.exchanger({ store: "kv", options: { retry: { attempts: 1 } } });
  const refused = (user) => Number(user.split("-")[1]) % 5 === 0;
  world.partner.answer = (parameters) =>
    refused(parameters.assertion.slice("assertion-of-".length))
      ? { status: 400, body: { error: "invalid_grant", suberror: "bad_token" } }
      : { body: tokenResponse(parameters, Math.floor(Math.random() * 1000)) };
  const calls = interleaved.map(async (user) => {
    await sleep(Math.random() * 100);
    return exchanger.exchange({ request: requestOf(`other-${user.slice(5)}`) });
  });
  for (const [index, outcome] of (await Promise.all(calls)).entries()) {
    const user = `other-${interleaved[index].slice(5)}`;
    if (refused(user)) assert.equal(outcome.error?.reason, "assertion_rejected");
    else assertOwn(user, outcome);
  }
});

test("many users' calls within one request get their own tokens", async () => {
  const exchanger = world.exchanger({ store: "kv" });
  const outcomes = await exchanger.exchangeMany(interleaved.map((user) => ({ request: requestOf(`batch-${user}`) })));
  outcomes.forEach((outcome, index) => assertOwn(`batch-${interleaved[index]}`, outcome));
});

for (const [what, leader, count] of [
  ["that leads", undefined, 1],
  ["that takes a dead flight over", { ctx: "idle", abortAt: "the leader's end" }, 2],
]) {
  test(`a call ${what} gives its own user's token, though its request object was used again for another user`, async () => {
    const exchanger = world.exchanger({ options: { timeoutMs: 3000 } });
    world.partner.valves.token.hold();
    const leading = leader && exchanger.exchange({ ...leader, request: requestOf("ada") });
    if (leader) await world.partner.valves.token.arrived();
    const answer = exchanger.exchange({ request: requestOf("ada"), changedTo: requestOf("mallory") });
    if (leader) await exchanger.until(({ joins }) => joins === 1);
    else await world.partner.valves.token.arrived();
    world.partner.gate("the leader's end").open();
    await leading;
    if (leader) await eventually("its connection gone", () => world.partner.tokenRequests[0].abandoned);
    world.partner.valves.token.open();
    assertOwn("ada", await answer);
    assert.equal(world.partner.tokenRequests.length, count);
  });
}

test("another isolate finds the tokens in the store that the first one put there, each user's own", async () => {
  const here = world.exchanger({ store: "kv" });
  const there = world.exchanger({ store: "kv" }, "neighbour");
  const users = Array.from({ length: userCount }, (_, index) => `shared-${index}`);
  const before = (await world.store.list()).keys.length;
  const first = await Promise.all(users.map((user) => here.exchange({ request: requestOf(user) })));
  await eventually("all in the store", async () => (await world.store.list()).keys.length === before + userCount);
  const calls = [...users, ...users];
  const second = await Promise.all(calls.map((user) => there.exchange({ request: requestOf(user) })));
  second.forEach((outcome, index) => {
    assertOwn(calls[index], outcome);
    const { source, ...token } = outcome.token;
    const { source: firstSource, ...firstToken } = first[index % userCount].token;
    assert.deepEqual(token, firstToken);
    assert.equal(firstSource, "issuer");
    // The second call of a user finds it in memory, or joins the read of the first.
    assert.ok(index < userCount ? source !== "issuer" : ["memory", "flight", "store"].includes(source), source);
  });
  const { store } = tally(second.map(({ token }) => token.source));
  assert.equal(store, userCount, "each user's entry was read once");
  assert.equal(world.partner.tokenRequests.length, userCount);
  assert.equal((await there.stats()).storeHits, userCount);
});

test("an isolate with another secret, or another client, finds nothing of the first one's in the store", async () => {
  const here = world.exchanger({ store: "kv" });
  await here.exchange({ request: requestOf("alone") });
  await sleep(100);
  for (const options of [
    { storeSecrets: Buffer.alloc(32, 7).toString("base64") },
    { clientId: "another client" },
    { issuer: "https://issuer.example" },
  ]) {
    const there = world.exchanger({ store: "kv", options }, "neighbour");
    const { token } = await there.exchange({ request: requestOf("alone") });
    assert.equal(token.source, "issuer", JSON.stringify(options));
  }
});

test("renewed assertions of one verified subject share a token, those of another subject do not", async () => {
  const exchanger = world.exchanger({ store: "kv" });
  const subject = { issuer: "https://issuer.example", id: "ada" };
  const ask = async (assertion, members) =>
    (await exchanger.exchange({ request: { assertion, scopes: "files.read", subject: { ...subject, ...members } } })).token;
  assert.equal((await ask("assertion-1")).accessToken, "token-for-assertion-1-1");
  assert.deepEqual([(await ask("assertion-2")).accessToken, (await ask("assertion-2")).source], ["token-for-assertion-1-1", "memory"]);
  for (const members of [{ id: "grace" }, { context: "another session" }, { tenant: "another" }, { issuer: "https://another.example" }]) {
    assert.equal((await ask("assertion-2", members)).source, "issuer", JSON.stringify(members));
  }
});
