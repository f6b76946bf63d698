/** What many users cost: memory that stays as it is, and no token request too many. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { requestOf, startWorld } from "./fixtures/world.js";

const mebibyte = 1024 * 1024;
const rounds = 10;
const users = 10_000;
const servers = ["files", "mail", "calendar"];
let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

test(`${users} users of ${servers.length} servers in ${rounds} rounds take less than 32 MiB, and the rounds after the third no more`, async () => {
  // Tokens of the size that Entra's have, from a token endpoint in the Worker itself.
  const exchanger = world.exchanger({ fetch: "mints" });
  const memory = [];
  for (let round = 0; round < rounds; round += 1) {
    assert.equal(await exchanger.serveUsers({ users, scopes: servers.map((server) => `api://${server}/use`) }), users * servers.length);
    const { memoryBytes, stats } = await exchanger.inspect();
    memory.push(memoryBytes);
    assert.equal(stats.flights, 0);
  }
  const { stats } = await exchanger.inspect();
  console.log(`wasm memory after each round, MiB: ${memory.map((bytes) => (bytes / mebibyte).toFixed(1)).join(" ")}; ${stats.memoryEntries} entries of ${(stats.memoryBytes / mebibyte).toFixed(1)} MiB`);
  assert.ok(memory.at(-1) < 32 * mebibyte, `${memory.at(-1)}`);
  assert.ok(memory.at(-1) - memory[2] < mebibyte, "flat");
});

test("a burst of 1000 calls over 20 keys makes 20 token requests", async () => {
  const exchanger = world.exchanger({ store: "kv" });
  const calls = Array.from({ length: 1000 }, (_, index) => ({ request: requestOf(`user-${index % 20}`) }));
  // Each call in a request of its own, a hundred sockets at a time.
  const outcomes = await Promise.all(calls.map((call) => exchanger.exchange(call)));
  outcomes.forEach(({ token }, index) => assert.ok(token.accessToken.startsWith(`token-for-assertion-of-user-${index % 20}-`)));
  assert.equal(world.partner.tokenRequests.length, 20);
  const { tokenRequests, memoryHits, joins } = await exchanger.stats();
  assert.deepEqual([tokenRequests, memoryHits + joins], [20, 980]);
});
