/** What the store is given, and what comes back from it. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { tokenResponse } from "./fixtures/partner.js";
import { eventually, requestOf, sleep, startWorld } from "./fixtures/world.js";

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

/** Whatever could be recognised of `text`: itself, and as any of its encodings. */
function* traces(text) {
  const bytes = Buffer.from(text);
  yield text;
  yield bytes.toString("hex");
  // In base64, what is inside of something longer shows at one of three offsets.
  for (const padding of ["", "x", "xx"]) {
    const encoded = Buffer.from(`${padding}${text}xx`).toString("base64url").slice(4, -6);
    // A shorter one is found by chance.
    if (encoded.length > 5) yield encoded;
  }
}

test("Workers KV holds nothing from which a token, a user, a scope or a secret could be read", async () => {
  const exchanger = world.exchanger({ store: "kv" });
  const users = ["ada.lovelace", "grace.hopper", "barbara.liskov"];
  const subject = { issuer: "https://issuer.example", id: "a-verified-subject", tenant: "a-tenant" };
  const requests = [...users.map((user) => requestOf(user)), requestOf("shared", { subject })];
  const outcomes = await Promise.all(requests.map((request) => exchanger.exchange({ request })));
  await eventually("all in the store", async () => (await world.store.list()).keys.length === requests.length);

  const { keys } = await world.store.list();
  const dump = await Promise.all(keys.map(async (key) => ({ ...key, ...(await world.store.getWithMetadata(key.name)) })));
  const text = JSON.stringify(dump);
  // What is decoded from base64url is searched too.
  const decoded = dump.map(({ name, value }) => [name, value.split(".").at(-1)].map((part) => Buffer.from(part, "base64url").toString("latin1")).join());
  const secrets = [
    ...outcomes.map(({ token }) => token.accessToken),
    ...users,
    "a-verified-subject", "a-tenant",
    "issuer.example",
    "assertion-of",
    "token-for",
    "files.read",
    "Bearer",
    "client",
    "hunter2",
  ];
  for (const secret of secrets) {
    for (const trace of traces(secret)) assert.ok(!text.includes(trace), `${secret} shows as ${trace}`);
    assert.ok(!decoded.join().includes(secret), `${secret} shows inside`);
  }
  assert.equal(new Set(keys.map(({ name }) => name)).size, requests.length);
  assert.equal(new Set(dump.map(({ value }) => value)).size, requests.length);
  for (const { name, metadata } of dump) {
    assert.ok(Buffer.byteLength(name) <= 512);
    assert.equal(metadata ?? null, null);
  }
});

test("the same token of the same user is sealed to another value each time, under the same name", async () => {
  world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, 1) });
  const seen = new Set();
  const names = new Set();
  for (let round = 0; round < 5; round += 1) {
    world.partner.entries.clear();
    await world.exchanger({ store: "remote" }).exchange({ request: requestOf("ada", { fromCache: false }) });
    await eventually("an entry", () => world.partner.entries.size === 1);
    const [[name, { value }]] = world.partner.entries;
    names.add(name);
    seen.add(value);
  }
  assert.deepEqual([names.size, seen.size], [1, 5]);
});

test("an entry that is read back is the token as it was first answered, its expiry included", async () => {
  const first = await world.exchanger({ store: "remote" }).exchange({ request: requestOf("ada") });
  await eventually("an entry", () => world.partner.entries.size === 1);
  await sleep(1100);
  const another = world.exchanger({ store: "remote" });
  const second = await another.exchange({ request: requestOf("ada") });
  assert.deepEqual(second.token, { ...first.token, source: "store" });
  const third = await another.exchange({ request: requestOf("ada") });
  assert.deepEqual(third.token, { ...first.token, source: "memory" });
  assert.equal(world.partner.tokenRequests.length, 1);
});

test("who waits while another reads the store gets the entry by the flight", async () => {
  await world.exchanger({ store: "remote" }).exchange({ request: requestOf("ada") });
  await eventually("an entry", () => world.partner.entries.size === 1);
  const exchanger = world.exchanger({ store: "remote" });
  world.partner.valves.storeGet.hold();
  const reader = exchanger.exchange({ request: requestOf("ada") });
  await world.partner.valves.storeGet.arrived();
  const follower = exchanger.exchange({ request: requestOf("ada") });
  await exchanger.until(({ joins }) => joins === 1);
  world.partner.valves.storeGet.open();
  assert.deepEqual([(await reader).token.source, (await follower).token.source], ["store", "flight"]);
});

test("Workers KV is told to forget an entry with its token, and never sooner than it allows", async () => {
  for (const { seconds, most } of [
    { seconds: 3600, most: 3600 },
    { seconds: 86_400, most: 3600 },
    { seconds: 200, most: 190 },
    { seconds: 72, most: 62 },
  ]) {
    world.partner.entries.clear();
    world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, 1, { expires_in: seconds }) });
    await world.exchanger({ store: "remote" }).exchange({ request: requestOf("ada") });
    await eventually(`an entry for ${seconds} s`, () => world.partner.entries.size === 1);
    const [{ expirationTtl }] = world.partner.entries.values();
    assert.ok(Number.isInteger(expirationTtl) && expirationTtl >= 60 && expirationTtl <= most, `${expirationTtl} s for a token of ${seconds} s`);
  }
  const exchanger = world.exchanger({ store: "kv" });
  await exchanger.exchange({ request: requestOf("ada") });
  await eventually("no failure of Workers KV", async () => (await exchanger.stats()).storeFailures === 0);
  const now = Date.now() / 1000;
  for (const { expiration } of (await world.store.list()).keys) assert.ok(expiration > now + 60);
});

test("a token that lives too shortly for Workers KV is not written, and served from memory", async () => {
  for (const seconds of [2, 30, 60, 69]) {
    world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, 1, { expires_in: seconds }) });
    const exchanger = world.exchanger({ store: "remote" });
    world.partner.valves.storePut.arrivals = 0;
    assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
    assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "memory");
    await sleep(50);
    assert.deepEqual([world.partner.valves.storePut.arrivals, (await exchanger.stats()).storeFailures], [0, 0], `${seconds} s`);
  }
});

test("an entry of one user under the name of another is not opened", async () => {
  const writer = world.exchanger({ store: "remote" });
  await writer.exchange({ request: requestOf("ada") });
  await eventually("Ada's entry", () => world.partner.entries.size === 1);
  const [ada] = world.partner.entries.values();
  await writer.exchange({ request: requestOf("mallory") });
  await eventually("Mallory's entry", () => world.partner.entries.size === 2);
  const mallory = [...world.partner.entries.keys()][1];
  world.partner.entries.set(mallory, ada);
  const reader = world.exchanger({ store: "remote" });
  const { token } = await reader.exchange({ request: requestOf("mallory") });
  assert.deepEqual([token.source, token.accessToken], ["issuer", "token-for-assertion-of-mallory-3"]);
  assert.equal((await reader.stats()).sealFailures, 1);
});

test("an older secret still opens, and what it opened is not lost when the newest seals", async () => {
  const secrets = [1, 2].map((byte) => Buffer.alloc(32, byte).toString("base64"));
  await world.exchanger({ store: "remote", options: { storeSecrets: secrets[0] } }).exchange({ request: requestOf("ada") });
  await eventually("an entry", () => world.partner.entries.size === 1);
  const rotated = world.exchanger({ store: "remote", options: { storeSecrets: [secrets[1], secrets[0]] } });
  assert.equal((await rotated.exchange({ request: requestOf("ada") })).token.source, "store");
  const renewed = world.exchanger({ store: "remote", options: { storeSecrets: secrets[1] } });
  assert.equal((await renewed.exchange({ request: requestOf("ada") })).token.source, "issuer");
});

test("an evicted token is gone from memory and store", async () => {
  const exchanger = world.exchanger({ store: "remote" });
  await exchanger.exchange({ request: requestOf("ada") });
  await eventually("an entry", () => world.partner.entries.size === 1);
  assert.deepEqual(await exchanger.evict(requestOf("ada")), {});
  assert.equal(world.partner.entries.size, 0);
  assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");

  const wrong = await exchanger.evict(requestOf("ada", { assertion: "" }));
  assert.deepEqual([wrong.error.reason, wrong.error.field], ["invalid_request", "assertion"]);
});
