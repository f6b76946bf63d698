/** Sealed entries that were tampered with: each is a miss and an event, never an error, never a token. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, beforeEach, test } from "node:test";
import { eventually, requestOf, startWorld } from "./fixtures/world.js";

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

/** Two users' entries in the store, as one isolate has written them. */
async function filled(options) {
  const exchanger = world.exchanger({ store: "remote", options });
  for (const user of ["ada", "bob"]) await exchanger.exchange({ request: requestOf(user) });
  await eventually("two entries", () => world.partner.entries.size === 2);
  world.partner.tokenRequests.length = 0;
  return [...world.partner.entries.keys()];
}

const put = (name, value) => world.partner.entries.set(name, { value, expirationTtl: 3600 });
const valueOf = (name) => world.partner.entries.get(name).value;

/** The value with one bit of its envelope flipped, at this share of its length. */
function flipped(value, share) {
  const bytes = Buffer.from(value.slice(2), "base64url");
  bytes[Math.floor((bytes.length - 1) * share)] ^= 1;
  return `2.${bytes.toString("base64url")}`;
}

const damages = {
  "is cut by a letter": (value) => value.slice(0, -1),
  "is cut in the middle": (value) => value.slice(0, value.length / 2),
  "has a bit of its nonce flipped": (value) => flipped(value, 0),
  "has a bit in the middle flipped": (value) => flipped(value, 0.5),
  "has a bit of its tag flipped": (value) => flipped(value, 1),
  "is of another user's key": (_value, other) => other,
  "is of a future version": (value) => `3.${value.slice(2)}`,
  "is of a version before": (value) => `1.${value.slice(2)}`,
  "is plain": () => JSON.stringify({ access_token: "planted", token_type: "Bearer", expires_in: 3600 }),
  "is of nobody's making": () => `2.${randomBytes(300).toString("base64url")}`,
};
for (const [what, damage] of Object.entries(damages)) {
  test(`an entry that ${what} is a miss and an event`, async () => {
    const names = await filled();
    const values = names.map(valueOf);
    names.forEach((name, index) => put(name, damage(values[index], values[1 - index])));
    const isolate = world.exchanger({ store: "remote" });
    for (const user of ["ada", "bob"]) {
      const { token } = await isolate.exchange({ request: requestOf(user) });
      assert.equal(token.source, "issuer");
      assert.ok(token.accessToken.startsWith(`token-for-assertion-of-${user}-`));
    }
    assert.equal(world.partner.tokenRequests.length, 2);
    assert.equal((await isolate.events()).filter(({ type }) => type === "seal_failure").length, 2);
    // What takes its place opens.
    await eventually("the entries are replaced", () => names.every((name) => damage(values[0], values[1]) !== valueOf(name)));
    assert.equal((await world.exchanger({ store: "remote" }).exchange({ request: requestOf("ada") })).token.source, "store");
  });
}

test("any listed secret opens and names, the first seals; one that is no longer listed does neither", async () => {
  const [old, current] = [1, 2].map(() => randomBytes(32).toString("base64"));
  const [ada] = await filled({ storeSecrets: old });
  const rotated = world.exchanger({ store: "remote", options: { storeSecrets: [current, old] } });
  assert.equal((await rotated.exchange({ request: requestOf("ada") })).token.source, "store");
  await rotated.exchange({ request: requestOf("eve") });
  await eventually("a third entry", () => world.partner.entries.size === 3);
  const retired = world.exchanger({ store: "remote", options: { storeSecrets: current } });
  assert.equal((await retired.exchange({ request: requestOf("eve") })).token.source, "store");
  assert.equal((await retired.exchange({ request: requestOf("ada") })).token.source, "issuer");
  assert.equal((await retired.stats()).sealFailures, 0, "it does not even find the old name");
  // Planted under the new name, what the old secret sealed does not open.
  await eventually("a fourth entry", () => world.partner.entries.size === 4);
  const renamed = [...world.partner.entries.keys()].at(-1);
  put(renamed, valueOf(ada));
  const later = world.exchanger({ store: "remote", options: { storeSecrets: current } });
  assert.equal((await later.exchange({ request: requestOf("ada") })).token.source, "issuer");
  assert.equal((await later.stats()).sealFailures, 1);
});

test("expiresAt is the same instant from every layer", async () => {
  const one = world.exchanger({ store: "remote", coordinator: "bound" });
  const request = requestOf("a-user-of-every-layer");
  const tokens = [await one.exchange({ request }), await one.exchange({ request })];
  await eventually("an entry", () => world.partner.entries.size === 1);
  tokens.push(await world.exchanger({ store: "remote" }, "neighbour").exchange({ request }));
  tokens.push(await world.exchanger({ coordinator: "bound" }, "third").exchange({ request }));
  assert.deepEqual(tokens.map(({ token }) => token.source), ["issuer", "memory", "store", "store"]);
  assert.equal(new Set(tokens.map(({ token }) => token.expiresAt)).size, 1);
  assert.equal(world.partner.tokenRequests.length, 1);
});
