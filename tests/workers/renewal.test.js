/** A hit in the last fifth of a token's serving time: answered at once, renewed after the request has ended. */

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { eventually, requestOf, startWorld } from "./fixtures/world.js";

const fiftyMinutes = 50 * 60_000;

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());
afterEach(() => world.setClock(0));

const tokenOf = ({ token }) => [token.accessToken, token.source];

for (const ctx of ["none", "given"]) {
  test(`the renewal goes on when its request has its answer (ctx: ${ctx})`, async () => {
    const exchanger = world.exchanger({ store: "remote" });
    const call = { ctx, request: requestOf("ada") };
    await exchanger.exchange(call);
    await eventually("an entry", () => world.partner.entries.size === 1);
    const [[, { value: first }]] = world.partner.entries;
    await world.setClock(fiftyMinutes);
    world.partner.valves.token.hold();
    const hits = await Promise.all(Array.from({ length: 20 }, () => exchanger.exchange(call)));
    assert.deepEqual(new Set(hits.map((outcome) => tokenOf(outcome).join())), new Set(["token-for-assertion-of-ada-1,memory"]));
    // Nobody waits any more; the request that hit first has ended.
    await world.partner.valves.token.arrived();
    world.partner.valves.token.open();
    await exchanger.until(({ tokens, flights }) => tokens === 2 && flights === 0);
    assert.deepEqual(tokenOf(await exchanger.exchange(call)), ["token-for-assertion-of-ada-2", "memory"]);
    const { renewals, tokenRequests } = await exchanger.stats();
    assert.deepEqual({ renewals, tokenRequests }, { renewals: 1, tokenRequests: 2 });
    // The store has it, too.
    const [[name]] = world.partner.entries;
    await eventually("the renewed entry", () => world.partner.entries.get(name).value !== first);
  });
}

test("a renewal whose client has left before it was answered is made all the same", async () => {
  const exchanger = world.exchanger();
  await exchanger.exchange({ request: requestOf("ada") });
  await world.setClock(fiftyMinutes);
  const leaver = await world.depart([exchanger.parameters({ request: requestOf("ada"), lingerAt: "the-end" })]);
  await exchanger.until(({ renewals }) => renewals === 1);
  await leaver.leave();
  await exchanger.until(({ tokens }) => tokens === 2);
  assert.deepEqual(tokenOf(await exchanger.exchange({ request: requestOf("ada") })), ["token-for-assertion-of-ada-2", "memory"]);
});

test("where the identity provider is away the token serves on, and is asked for again a minute later", async () => {
  const exchanger = world.exchanger({ options: { retry: { attempts: 1 } } });
  const call = { request: requestOf("ada") };
  await exchanger.exchange(call);
  await world.setClock(fiftyMinutes);
  world.partner.answers.push(503);
  for (let hit = 0; hit < 5; hit += 1) assert.deepEqual(tokenOf(await exchanger.exchange(call)), ["token-for-assertion-of-ada-1", "memory"]);
  await exchanger.until(({ failures, flights }) => failures === 1 && flights === 0);
  assert.deepEqual(tokenOf(await exchanger.exchange(call)), ["token-for-assertion-of-ada-1", "memory"]);
  assert.equal(world.partner.tokenRequests.length, 2);
  await world.setClock(fiftyMinutes + 61_000);
  await exchanger.exchange(call);
  await exchanger.until(({ tokens }) => tokens === 2);
});

test("three isolates with a coordinator renew by one token request", async () => {
  const all = ["exchange", "neighbour", "third"].map((isolate) => [isolate, world.exchanger({ coordinator: "bound" }, isolate)]);
  const call = { request: requestOf("a-user-who-is-renewed") };
  for (const [, exchanger] of all) await exchanger.exchange(call);
  for (const [isolate] of all) await world.setClock(fiftyMinutes, isolate);
  try {
    for (const [, exchanger] of all) assert.equal(tokenOf(await exchanger.exchange(call))[1], "memory");
    await eventually("one renewal in the world", () => world.partner.tokenRequests.length === 2);
    for (const [, exchanger] of all) await exchanger.until(({ flights }) => flights === 0);
    assert.equal(world.partner.tokenRequests.length, 2);
  } finally {
    for (const [isolate] of all) await world.setClock(0, isolate);
  }
});
