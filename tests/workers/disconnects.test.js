/** The client of the request that leads an exchange disconnects. Whoever waits for the exchange does not notice. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { eventually, requestOf, sleep, startWorld, tally } from "./fixtures/world.js";

const followerCount = 10;
/** How long workerd may take to see that a client has gone, where nothing shows it. */
const noticedAfterMs = 200;

/** Where the leader is when its client goes: what holds it there, and what lets it go on. */
const phases = {
  "while it reads the store": {
    hold: ({ valves }) => valves.storeGet.hold(),
    reached: ({ valves }) => valves.storeGet.arrived(),
    goOn: ({ valves }) => valves.storeGet.open(),
  },
  "while it posts": {
    hold: ({ valves }) => valves.token.hold(),
    reached: ({ valves }) => valves.token.arrived(),
    goOn: ({ valves }) => valves.token.open(),
  },
  "while it sleeps before a retry": {
    hold: ({ answers }) => answers.push(503),
    reached: ({ tokenRequests }) => eventually("a first answer", () => tokenRequests[0]?.answered),
    goOn() {},
    settings: { options: { retry: { delayMs: 600 } } },
  },
};

/** How the client goes. */
const ways = {
  "a Worker aborts its call": async (world, call) => world.depart([call]),
  "a socket is reset": (world, call) => world.departByReset(call),
};

for (const compatibilityDate of ["2024-10-14", "2026-04-01"]) {
  describe(`compatibility date ${compatibilityDate}`, () => {
    let world;
    before(async () => (world = await startWorld({ compatibilityDate })));
    after(() => world.close());
    beforeEach(() => world.partner.reset());

    for (const [way, depart] of Object.entries(ways)) {
      for (const ctx of ["none", "given"]) {
        for (const [phase, { hold, reached, goOn, settings }] of Object.entries(phases)) {
          test(`the leader's client goes ${phase}: the exchange goes on (${way}, ctx: ${ctx})`, async () => {
            const { partner } = world;
            const exchanger = world.exchanger({ store: "remote", ...settings });
            hold(partner);
            const leader = await depart(world, exchanger.parameters({ ctx, request: requestOf("ada") }));
            await reached(partner);
            const followers = follow(exchanger, ctx);
            await exchanger.until(({ joins }) => joins === followerCount);
            const [departed] = await leader.leave();
            assert.ok("left" in departed, "the leader left before it had an answer");
            await sleep(noticedAfterMs);
            goOn(partner);
            await assertServed(await followers, { flight: followerCount });
            await assertAlive(exchanger, ctx);
            const { takeovers, flights } = await exchanger.stats();
            assert.deepEqual({ takeovers, flights }, { takeovers: 0, flights: 0 });
            assert.equal(partner.tokenRequests.length, settings ? 2 : 1);
          });
        }

        test(`the leader's client goes while it writes the store: the entry is written (${way}, ctx: ${ctx})`, async () => {
          const { partner } = world;
          const exchanger = world.exchanger({ store: "remote" });
          partner.valves.storePut.hold();
          partner.valves.token.hold();
          const call = exchanger.parameters({ ctx, request: requestOf("ada"), lingerAt: "leader has its token" });
          const leader = await depart(world, call);
          await partner.valves.token.arrived();
          const followers = follow(exchanger, ctx);
          await exchanger.until(({ joins }) => joins === followerCount);
          partner.valves.token.open();
          await partner.gate("leader has its token").arrived();
          await partner.valves.storePut.arrived();
          const [departed] = await leader.leave();
          assert.ok("left" in departed);
          await sleep(noticedAfterMs);
          partner.valves.storePut.open();
          await assertServed(await followers, { flight: followerCount });
          await eventually("an entry in the store", () => partner.entries.size === 1);
          await assertAlive(exchanger, ctx);
          assert.equal(partner.tokenRequests.length, 1);
          const neighbour = world.exchanger({ store: "remote" }, "neighbour");
          assert.equal((await neighbour.exchange({ request: requestOf("ada") })).token.source, "store");
        });
      }

      for (const [phase, { hold, reached, goOn, settings }] of Object.entries(phases)) {
        test(`a flight that nothing keeps alive dies ${phase}: its followers take over (${way})`, async () => {
          const { partner } = world;
          const options = { timeoutMs: 3000, ...settings?.options };
          const exchanger = world.exchanger({ store: "remote", options });
          hold(partner);
          const leader = await depart(world, exchanger.parameters({ ctx: "idle", request: requestOf("ada") }));
          await reached(partner);
          const followers = follow(exchanger, "none");
          await exchanger.until(({ joins }) => joins === followerCount);
          const [departed] = await leader.leave();
          assert.ok("left" in departed);
          // It died: the token endpoint sees its connection go.
          if (phase === "while it posts") await eventually("a connection gone", () => partner.tokenRequests[0].abandoned);
          else await sleep(noticedAfterMs);
          goOn(partner);
          await assertServed(await followers, { issuer: 1, flight: followerCount - 1 });
          const { takeovers } = await exchanger.stats();
          assert.ok(takeovers >= 1 && takeovers <= followerCount, `${takeovers} takeovers`);
          await assertAlive(exchanger, "none");
          const left = partner.tokenRequests.length - (settings || phase === "while it posts" ? 1 : 0);
          assert.equal(left, 1, "the followers made one token request");
        });
      }

      test(`a flight that dies with nobody waiting leaves no dead key (${way})`, async () => {
        const { partner } = world;
        const exchanger = world.exchanger({ options: { timeoutMs: 2000 } });
        partner.valves.token.hold();
        const leader = await depart(world, exchanger.parameters({ ctx: "idle", request: requestOf("ada") }));
        await partner.valves.token.arrived();
        await leader.leave();
        await eventually("a connection gone", () => partner.tokenRequests[0].abandoned);
        partner.valves.token.open();
        const { token } = await exchanger.exchange({ request: requestOf("ada") });
        assert.deepEqual([token.source, token.accessToken], ["issuer", "token-for-assertion-of-ada-2"]);
        await eventually("no flight", async () => (await exchanger.stats()).flights === 0);
      });

      test(`leader after leader dies: who stays gets a token all the same (${way})`, async () => {
        const { partner } = world;
        const exchanger = world.exchanger({ options: { timeoutMs: 4000, retry: { attempts: 4 } } });
        partner.valves.token.hold();
        const call = exchanger.parameters({ ctx: "idle", request: requestOf("ada") });
        const first = await depart(world, call);
        await partner.valves.token.arrived(1);
        const second = await depart(world, call);
        await exchanger.until(({ joins }) => joins === 1);
        const staying = exchanger.exchange({ request: requestOf("ada") });
        await exchanger.until(({ joins }) => joins === 2);
        await first.leave();
        // One of the two takes over. If it is the one that goes, the other does in its turn.
        await partner.valves.token.arrived(2);
        await second.leave();
        await sleep(noticedAfterMs);
        partner.valves.token.open();
        const { token } = await staying;
        assert.match(token.accessToken, /^token-for-assertion-of-ada-[23]$/);
        await assertAlive(exchanger, "none");
      });
    }

    test("a follower's client goes: leader and other followers do not notice", async () => {
      const { partner } = world;
      const exchanger = world.exchanger();
      partner.valves.token.hold();
      const leader = exchanger.exchange({ request: requestOf("ada") });
      await partner.valves.token.arrived();
      const going = world.depart(Array.from({ length: followerCount }, () => exchanger.parameters({ request: requestOf("ada") })));
      const reset = await world.departByReset(exchanger.parameters({ request: requestOf("ada") }));
      const staying = follow(exchanger, "none");
      await exchanger.until(({ joins }) => joins === 2 * followerCount + 1);
      await reset.leave();
      assert.deepEqual(tally((await going.leave()).map((answer) => "left" in answer)), { true: followerCount });
      await sleep(noticedAfterMs);
      partner.valves.token.open();
      assert.equal((await leader).token.source, "issuer");
      await assertServed(await staying, { flight: followerCount });
      await assertAlive(exchanger, "none");
      assert.equal(partner.tokenRequests.length, 1);
    });
  });
}

function follow(exchanger, ctx) {
  const call = { ctx, request: requestOf("ada"), afterwards: "own" };
  return Promise.all(Array.from({ length: followerCount }, () => exchanger.exchange(call)));
}

/** Everybody has Ada's token, from these sources, and went on with I/O of their own. */
async function assertServed(outcomes, sources) {
  for (const { token, error, afterwards } of outcomes) {
    assert.equal(error, undefined);
    assert.match(token.accessToken, /^token-for-assertion-of-ada-\d+$/);
    assert.equal(afterwards.fetched, "you asked for /echo/own");
  }
  assert.deepEqual(tally(outcomes.map(({ token }) => token.source)), sources);
}

/** The key is not dead. */
async function assertAlive(exchanger, ctx) {
  const { token } = await exchanger.exchange({ ctx, request: requestOf("ada") });
  assert.equal(token.source, "memory");
}
