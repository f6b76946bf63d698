// What the package puts into a store, taken apart by node:crypto alone after the comments of src/cache, and the
// store as it may misbehave.
import assert from "node:assert/strict";
import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { TokenExchanger } from "obo-edge";
import {
  MapStore,
  assertNothingShows,
  completeOptions,
  failureOf,
  newStoreSecret,
  scope,
  secretBytes,
  startIssuer,
  tokenEndpoint,
  tokenFor,
  tokenResponse,
  unsignedToken,
  until,
} from "./support.js";

let issuer;

before(async () => {
  issuer = await startIssuer();
});
after(() => issuer.close());

// --- The format, a second time ---

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();

function uint(value, bytes) {
  const buffer = Buffer.alloc(bytes);
  buffer.writeBigUInt64BE(BigInt(value), bytes - 8);
  return buffer;
}

/** A tag, the length in eight bytes, the bytes. */
function field(tag, value) {
  const bytes = Buffer.from(value);
  return Buffer.concat([Buffer.from(tag), uint(bytes.length, 8), bytes]);
}

/** A tag, the count in eight bytes, then each element as a field of the same tag. */
function list(tag, values) {
  return Buffer.concat([Buffer.from(tag), uint(values.length, 8), ...values.map((value) => field(tag, value))]);
}

/** Absent is a list of none. */
const optional = (tag, value) => list(tag, value === undefined ? [] : [value]);

/** The key of an exchange (src/cache/key.rs). */
function keyDigest(options, { assertion, scopes, subject, claims }) {
  const identity = subject
    ? [field("s", subject.issuer), optional("t", subject.tenant), field("u", subject.id), optional("x", subject.context)]
    : [field("a", sha256(assertion))];
  return sha256(
    Buffer.concat([
      field("v", "obo-edge/key/v2"),
      field("g", "on-behalf-of"),
      optional("e", options.tokenEndpoint),
      optional("i", options.issuer),
      field("c", options.clientId),
      ...identity,
      optional("y", undefined),
      optional("A", undefined),
      optional("Y", undefined),
      list("S", [...new Set([scopes].flat().flatMap((text) => text.split(" ")))].sort()),
      list("D", []),
      list("R", []),
      optional("C", claims && sha256(claims)),
    ]),
  );
}

/** The name in the store (src/cache/seal.rs). */
function storeName(secret, digest) {
  return createHmac("sha256", secretBytes(secret)).update("obo-edge/name/v1").update(digest).digest("base64url");
}

function sealingKey(secret, digest, { assertion, subject }) {
  const info = Buffer.concat([Buffer.from("obo-edge/store/v1"), Buffer.from(subject ? "s" : "a"), digest]);
  return Buffer.from(hkdfSync("sha256", subject ? "" : assertion, secretBytes(secret), info, 32));
}

const additionalData = (digest) => Buffer.concat([Buffer.from("2."), digest]);

/** Opens an envelope: "2.", then nonce, ciphertext and tag in base64url. */
function open(value, secret, digest, request) {
  assert.match(value, /^2\.[A-Za-z0-9_-]+$/);
  const envelope = Buffer.from(value.slice(2), "base64url");
  const decipher = createDecipheriv("aes-256-gcm", sealingKey(secret, digest, request), envelope.subarray(0, 12));
  decipher.setAAD(additionalData(digest));
  decipher.setAuthTag(envelope.subarray(-16));
  return readEntry(Buffer.concat([decipher.update(envelope.subarray(12, -16)), decipher.final()]));
}

function seal(plain, secret, digest, request) {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", sealingKey(secret, digest, request), nonce);
  cipher.setAAD(additionalData(digest));
  const sealed = Buffer.concat([cipher.update(plain), cipher.final()]);
  return `2.${Buffer.concat([nonce, sealed, cipher.getAuthTag()]).toString("base64url")}`;
}

/** Four instants in milliseconds, the last of which may never come, then four texts, each after its length in four bytes (src/cache/entry.rs). */
function readEntry(plain) {
  const [mintedAt, expiresAt, bound, refreshAt] = [0, 8, 16, 24].map((at) => Number(plain.readBigUInt64BE(at)));
  const texts = [];
  let at = 32;
  while (at < plain.length) {
    const length = plain.readUInt32BE(at);
    texts.push(plain.subarray(at + 4, at + 4 + length).toString());
    at += 4 + length;
  }
  assert.equal(texts.length, 4);
  const [accessToken, tokenType, scopes, issuedTokenType] = texts;
  return { mintedAt, expiresAt, bound, refreshAt, accessToken, tokenType, scope: scopes, issuedTokenType };
}

const noInstant = 2n ** 64n - 1n;

function writeEntry({ mintedAt, expiresAt, bound, refreshAt = noInstant, accessToken, tokenType = "Bearer", scope: scopes = scope, issuedTokenType = "" }) {
  const texts = [accessToken, tokenType, scopes, issuedTokenType].map((text) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(Buffer.byteLength(text));
    return Buffer.concat([length, Buffer.from(text)]);
  });
  return Buffer.concat([...[mintedAt, expiresAt, bound, refreshAt].map((instant) => uint(instant, 8)), ...texts]);
}

// --- Exchangers on one store ---

/** Isolates that share a store and the options, each with a memory of its own. */
function isolates(overrides) {
  const store = new MapStore();
  const secret = newStoreSecret();
  const endpoint = tokenEndpoint(overrides?.answer);
  const { answer: _, ...options } = completeOptions({ store, storeSecrets: secret, fetch: endpoint.fetch, ...overrides });
  return { store, secret, options, requests: endpoint.requests, isolate: (more) => new TokenExchanger({ ...options, ...more }) };
}

const subject = { issuer: "https://login.example", tenant: "t\u00e4nant", id: "ada", context: "sid=1" };

for (const [what, request, more] of [
  ["an assertion", { scopes: scope }, {}],
  ["an assertion, with an issuer", { scopes: scope }, { issuer: "https://LOGIN.example" }],
  ["an assertion, with claims and several scopes", { scopes: ["b c", "a", "b"], claims: '{"access_token":{}}' }, {}],
  ["a subject of all parts", { scopes: scope, subject }, {}],
  ["a subject of few parts", { scopes: scope, subject: { issuer: "i", id: "u" } }, {}],
]) {
  test(`the entry of ${what} opens as it is documented`, async () => {
    const { store, secret, options, isolate } = isolates(more);
    const complete = { assertion: unsignedToken(), ...request };
    const before = Date.now();
    const token = await isolate().exchange(complete);
    await store.written(1);

    const [{ name, value, options: written }] = store.puts;
    const digest = keyDigest(options, complete);
    assert.equal(name, storeName(secret, digest));
    assert.deepEqual(store.gets, [name]);
    assert.ok(Buffer.byteLength(name) <= 512);
    const entry = open(value, secret, digest, complete);
    assert.equal(entry.accessToken, token.accessToken);
    assert.equal(entry.tokenType, "Bearer");
    assert.equal(entry.scope, token.scope);
    assert.equal(entry.issuedTokenType, "");
    assert.equal(entry.expiresAt, token.expiresAt);
    assert.ok(entry.mintedAt >= before && entry.mintedAt <= Date.now());
    assert.ok(entry.bound <= entry.mintedAt + 3_600_000);
    assert.deepEqual(Object.keys(written), ["expirationTtl"]);
    assert.ok(Number.isInteger(written.expirationTtl) && written.expirationTtl >= 60 && written.expirationTtl <= 3600);
  });
}

test("an entry that was sealed by the documentation alone is served", async () => {
  const { store, secret, options, isolate, requests } = isolates();
  const request = { assertion: unsignedToken(), scopes: scope };
  const digest = keyDigest(options, request);
  const now = Date.now();
  const entry = { mintedAt: now - 1000, expiresAt: now + 3_600_000, bound: now + 3_600_000, accessToken: "sealed-elsewhere" };
  store.entries.set(storeName(secret, digest), seal(writeEntry(entry), secret, digest, request));
  const exchanger = isolate();
  assert.deepEqual(await exchanger.exchange(request), {
    accessToken: "sealed-elsewhere",
    tokenType: "Bearer",
    expiresAt: entry.expiresAt,
    scope,
    source: "store",
  });
  assert.equal((await exchanger.exchange(request)).source, "memory");
  assert.equal(requests.length, 0);
  assert.equal(store.gets.length, 1);
});

test("an entry is served until its own bounds, whatever the store still holds", async () => {
  const now = Date.now();
  const hour = 3_600_000;
  for (const [what, entry, served] of [
    ["a token that has expired", { mintedAt: now - hour, expiresAt: now - 1, bound: now + hour }, false],
    ["a token in its last minutes", { mintedAt: now - hour, expiresAt: now + 200_000, bound: now + hour }, false],
    ["a token before them", { mintedAt: now - hour / 2, expiresAt: now + 400_000, bound: now + hour }, true],
    ["an entry past its bound", { mintedAt: now - 1000, expiresAt: now + hour, bound: now - 1 }, false],
    ["an entry older than maxLifetimeMs", { mintedAt: now - hour - 1000, expiresAt: now + hour, bound: now + hour }, false],
    ["an entry of year 10889", { mintedAt: now, expiresAt: Number.MAX_SAFE_INTEGER, bound: Number.MAX_SAFE_INTEGER }, true],
  ]) {
    const { store, secret, options, isolate, requests } = isolates();
    const request = { assertion: unsignedToken(), scopes: scope };
    const digest = keyDigest(options, request);
    store.entries.set(storeName(secret, digest), seal(writeEntry({ ...entry, accessToken: "t" }), secret, digest, request));
    assert.equal((await isolate().exchange(request)).source, served ? "store" : "issuer", what);
    assert.equal(requests.length, served ? 0 : 1, what);
  }
});

test("a token from the store is the issuer's, end to end", async () => {
  const store = new MapStore();
  const options = issuer.exchangerOptions({ store, storeSecrets: newStoreSecret() });
  issuer.tokenRequests.length = 0;
  const request = { assertion: await issuer.mintUserToken(), scopes: scope };
  const first = await new TokenExchanger(options).exchange(request);
  await store.written(1);
  const second = await new TokenExchanger(options).exchange(request);
  assert.deepEqual({ ...second, source: "issuer" }, first);
  assert.equal(second.source, "store");
  assert.equal(issuer.tokenRequests.length, 1);
});

test("nothing in the store can be read without secret and assertion", async () => {
  const { store, secret, options, isolate } = isolates();
  const request = { assertion: unsignedToken(), scopes: scope };
  const token = await isolate().exchange(request);
  await store.written(1);
  const [{ name, value }] = store.puts;
  const stored = `${name} ${value} ${Buffer.from(value.slice(2), "base64url").toString("latin1")}`;
  for (const text of [request.assertion, token.accessToken, scope, options.clientId, options.tokenEndpoint, "Bearer"]) {
    assert.ok(!stored.includes(text));
  }
  const digest = keyDigest(options, request);
  assert.throws(() => open(value, secret, digest, { ...request, assertion: unsignedToken() }), "the secret alone opens it");
  assert.throws(() => open(value, newStoreSecret(), digest, request), "the assertion alone opens it");
  assert.throws(() => open(value, secret, digest, { ...request, subject }), "it opens as a subject's");
});

test("no two writes share a nonce", async () => {
  const { store, isolate } = isolates();
  const exchanger = isolate();
  const request = { assertion: unsignedToken(), scopes: scope };
  for (let count = 0; count < 50; count += 1) await exchanger.exchange({ ...request, fromCache: false });
  await store.written(50);
  assert.equal(new Set(store.puts.map(({ value }) => value.slice(2, 18))).size, 50);
  assert.equal(new Set(store.puts.map(({ name }) => name)).size, 1);
});

test("a secret is read in base64 and base64url, padded or not", async () => {
  const bytes = Buffer.concat([Buffer.alloc(31, 0xfb), Buffer.from([0xff])]);
  const { store, options, isolate, requests } = isolates();
  const request = { assertion: unsignedToken(), scopes: scope };
  const forms = [bytes.toString("base64"), bytes.toString("base64url"), bytes.toString("base64").replace("=", ""), ` ${bytes.toString("base64")}\n`];
  assert.equal(new Set(forms).size, 4);
  await isolate({ storeSecrets: forms[0] }).exchange(request);
  await store.written(1);
  for (const storeSecrets of forms) assert.equal((await isolate({ storeSecrets }).exchange(request)).source, "store");
  assert.equal(requests.length, 1);
  assert.equal(store.puts[0].name, storeName(bytes.toString("base64"), keyDigest(options, request)));
});

// --- Rotation ---

test("the first secret seals, and any that is listed opens", async () => {
  const { store, isolate, requests, options } = isolates();
  const [old, current, next] = [1, 2, 3].map(newStoreSecret);
  const request = { assertion: unsignedToken(), scopes: scope };
  const digest = keyDigest(options, request);

  await isolate({ storeSecrets: old }).exchange(request);
  await store.written(1);
  const rotated = isolate({ storeSecrets: [next, current, old] });
  assert.equal((await rotated.exchange(request)).source, "store");
  assert.deepEqual(store.gets.slice(-3), [next, current, old].map((secret) => storeName(secret, digest)));
  assert.equal(requests.length, 1);

  await rotated.exchange({ ...request, fromCache: false });
  await store.written(2);
  assert.equal(store.puts[1].name, storeName(next, digest));
  assert.ok(open(store.puts[1].value, next, digest, request));
  assert.equal((await isolate({ storeSecrets: next }).exchange(request)).source, "store");
});

test("without the secret that sealed it, an entry is a miss and no failure", async () => {
  const { store, isolate, requests } = isolates();
  const request = { assertion: unsignedToken(), scopes: scope };
  await isolate().exchange(request);
  await store.written(1);
  const other = isolate({ storeSecrets: newStoreSecret() });
  assert.equal((await other.exchange(request)).source, "issuer");
  assert.equal(requests.length, 2);
  assert.deepEqual([other.stats.sealFailures, other.stats.storeFailures], [0, 0], "it has another name");
});

test("an entry under the name of another secret does not open, and the next secret is tried", async () => {
  const { store, secret, options, isolate, requests } = isolates();
  const other = newStoreSecret();
  const request = { assertion: unsignedToken(), scopes: scope };
  await isolate().exchange(request);
  await store.written(1);
  store.entries.set(storeName(other, keyDigest(options, request)), store.puts[0].value);
  const exchanger = isolate({ storeSecrets: [other, secret] });
  assert.equal((await exchanger.exchange(request)).source, "store");
  assert.equal(exchanger.stats.sealFailures, 1);
  assert.equal(requests.length, 1);
});

// --- Lifetimes ---

for (const [expiresIn, claims, more, written] of [
  [3600, {}, {}, 3590],
  [72, {}, {}, 62],
  [69, {}, {}, undefined],
  [1, {}, {}, undefined],
  [3600, { exp: () => Math.floor(Date.now() / 1000) + 30 }, {}, undefined],
  [3600, { exp: () => Math.floor(Date.now() / 1000) + 100 }, {}, 99],
  [3600, {}, { maxLifetimeMs: 61_000 }, 61],
  [3600, {}, { maxLifetimeMs: 59_000 }, undefined],
  [1e18, { exp: () => 9e9 }, { maxLifetimeMs: 86_400_000 }, 86_400],
]) {
  const assertionLife = claims.exp ? `, an assertion of ${Math.min(claims.exp() - Math.floor(Date.now() / 1000), 1e6)} s` : "";
  const most = more.maxLifetimeMs ? `, at most ${more.maxLifetimeMs} ms` : "";
  const outcome = written ? `is stored for about ${written} s` : "stays in memory";
  test(`a token of ${expiresIn} s${assertionLife}${most} ${outcome}`, async () => {
    const { store, isolate } = isolates({ answer: () => tokenResponse({ expires_in: expiresIn }), ...more });
    const assertion = unsignedToken(claims.exp ? { exp: claims.exp() } : { exp: Math.floor(Date.now() / 1000) + 7200 });
    await isolate().exchange({ assertion, scopes: scope });
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(store.puts.length, written ? 1 : 0);
    if (!written) return;
    const { expirationTtl } = store.puts[0].options;
    // Time passes between the request and the write; never so that the store refuses.
    assert.ok(expirationTtl >= 60 && expirationTtl <= written && expirationTtl >= written - 2, `${expirationTtl} s`);
  });
}

test("fromCache: false reads no store and overwrites what is there", async () => {
  const { store, isolate, requests } = isolates({ answer: (_form, _init, count) => tokenResponse({ access_token: `token-${count}` }) });
  const request = { assertion: unsignedToken(), scopes: scope };
  const exchanger = isolate();
  await exchanger.exchange(request);
  await store.written(1);
  const reads = store.gets.length;
  assert.equal((await exchanger.exchange({ ...request, fromCache: false })).accessToken, "token-2");
  await store.written(2);
  assert.equal(store.gets.length, reads);
  assert.equal((await exchanger.exchange(request)).accessToken, "token-2");
  assert.equal((await isolate().exchange(request)).accessToken, "token-2");
  assert.equal(requests.length, 2);
});

test("a subject's entry serves another assertion of the same subject and context only", async () => {
  const { store, isolate, requests } = isolates();
  await isolate().exchange({ assertion: unsignedToken(), scopes: scope, subject });
  await store.written(1);
  assert.equal((await isolate().exchange({ assertion: unsignedToken(), scopes: scope, subject })).source, "store");
  for (const other of [{ ...subject, id: "grace" }, { ...subject, context: "sid=2" }, { ...subject, tenant: "t" }, { ...subject, tenant: undefined }, { ...subject, issuer: "i" }, undefined]) {
    const assertion = unsignedToken();
    const token = await isolate().exchange({ assertion, scopes: scope, subject: other });
    assert.deepEqual([token.source, token.accessToken], ["issuer", tokenFor(assertion)]);
  }
  assert.equal(requests.length, 7);
});

// --- A store that misbehaves ---

const never = () => new Promise(() => {});
const misbehaviours = {
  "throws at get": { get: () => assert.fail("thrown") },
  "rejects get": { get: () => Promise.reject(new Error("rejected")) },
  "rejects get with nothing": { get: () => Promise.reject() },
  "answers what is no text": { get: async () => 7 },
  "answers bytes": { get: async () => new Uint8Array(64) },
  "answers an object": { get: async () => ({ value: "2.x" }) },
  "answers text that was never sealed": { get: async () => "hello" },
  "answers an empty text": { get: async () => "" },
  "answers a lone surrogate": { get: async () => "2.\ud800" },
  "answers an envelope of nothing": { get: async () => "2." },
  "answers an envelope too short": { get: async () => `2.${randomBytes(11).toString("base64url")}` },
  "answers noise": { get: async () => `2.${randomBytes(500).toString("base64url")}` },
  "answers an envelope of later": { get: async () => `2.${randomBytes(500).toString("base64url")}` },
  "answers a megabyte": { get: async () => `2.${"A".repeat(1_000_000)}` },
  "answers without a promise": { get: () => "hello" },
  "answers a promise of another library": { get: () => ({ then: (resolve) => resolve(null) }) },
  "throws at put": { put: () => assert.fail("thrown") },
  "rejects put": { put: () => Promise.reject(new Error("429 Too Many Requests")) },
  "never answers put": { put: never },
  "has a put that answers without a promise": { put: () => undefined },
};
for (const [what, methods] of Object.entries(misbehaviours)) {
  test(`a store that ${what} is no failure`, async () => {
    const { isolate, requests } = isolates({ store: Object.assign(new MapStore(), methods) });
    const events = [];
    const exchanger = isolate({ onEvent: (event) => events.push(event) });
    const request = { assertion: unsignedToken(), scopes: scope };
    const started = Date.now();
    assert.equal((await exchanger.exchange(request)).source, "issuer");
    assert.ok(Date.now() - started < 1000);
    assert.equal((await exchanger.exchange(request)).source, "memory");
    assert.equal(requests.length, 1);
    if (/throws|rejects/.test(what)) {
      await until(() => exchanger.stats.storeFailures === 1);
      assert.ok(events.some(({ type }) => type === "store_failure"));
    }
    if (/text|bytes|object|envelope|noise|surrogate|megabyte/.test(what)) assert.equal(exchanger.stats.sealFailures, 1);
    assertNothingShows(events, [request.assertion]);
  });
}

test("a store that never answers is given up, and the exchange still ends within the time-out", async () => {
  const { isolate, requests } = isolates({ store: Object.assign(new MapStore(), { get: never }), timeoutMs: 2000 });
  const exchanger = isolate();
  const started = Date.now();
  assert.equal((await exchanger.exchange({ assertion: unsignedToken(), scopes: scope })).source, "issuer");
  const took = Date.now() - started;
  assert.ok(took >= 400 && took < 1000, `${took} ms are not a quarter of the time`);
  assert.equal(exchanger.stats.storeFailures, 1);
  assert.equal(requests.length, 1);
});

test("a store that never answers, under each of four secrets, leaves time for the exchange", async () => {
  const store = Object.assign(new MapStore(), { get: never });
  const { isolate } = isolates({ store, storeSecrets: Array.from({ length: 4 }, newStoreSecret), timeoutMs: 1000 });
  const started = Date.now();
  assert.equal((await isolate().exchange({ assertion: unsignedToken(), scopes: scope })).source, "issuer");
  assert.ok(Date.now() - started < 1000);
});

test("an entry that somebody cut, changed or put under another name does not open", async () => {
  const { store, isolate, requests } = isolates();
  const [mine, yours] = [1, 2].map(() => ({ assertion: unsignedToken(), scopes: scope }));
  await isolate().exchange(mine);
  await isolate().exchange(yours);
  await store.written(2);
  const [{ name, value }, { value: foreign }] = store.puts;
  const flipped = value.slice(0, 40) + (value[40] === "A" ? "B" : "A") + value.slice(41);
  for (const spoiled of [foreign, flipped, value.slice(0, -1), `${value}AAAA`, value.slice(2), `${value}=`, ` ${value}`]) {
    store.entries.set(name, spoiled);
    const exchanger = isolate();
    const token = await exchanger.exchange(mine);
    assert.deepEqual([token.source, token.accessToken], ["issuer", tokenFor(mine.assertion)]);
    assert.equal(exchanger.stats.sealFailures, 1);
    await until(() => store.entries.get(name) !== spoiled);
  }
  assert.equal(requests.length, 9);
});

test("the answer does not wait for the write, and waitUntil is told of it", async () => {
  let finish;
  const store = Object.assign(new MapStore(), { put: () => new Promise((resolve) => (finish = resolve)) });
  const { isolate } = isolates({ store });
  const kept = [];
  await isolate().exchange({ assertion: unsignedToken(), scopes: scope }, { waitUntil: (promise) => kept.push(promise) });
  await until(() => finish !== undefined);
  const settled = Promise.all(kept).then(() => "settled");
  const soon = new Promise((resolve) => setTimeout(resolve, 20, "pending"));
  assert.equal(await Promise.race([settled, soon]), "pending");
  finish();
  assert.equal(await settled, "settled");
});

// --- Eviction ---

test("an evicted token is gone from memory and store, under each secret", async () => {
  const { store, isolate, requests, options } = isolates();
  const [old, current] = [1, 2].map(newStoreSecret);
  const request = { assertion: unsignedToken(), scopes: scope };
  const kept = { assertion: unsignedToken(), scopes: scope };
  await isolate({ storeSecrets: old }).exchange(request);
  const exchanger = isolate({ storeSecrets: [current, old] });
  await exchanger.exchange({ ...request, fromCache: false });
  await exchanger.exchange(kept);
  await store.written(3);

  assert.equal(await exchanger.evict(request), undefined);
  const digest = keyDigest(options, request);
  assert.deepEqual(store.deletes.sort(), [current, old].map((secret) => storeName(secret, digest)).sort());
  assert.equal(store.entries.size, 1);
  assert.equal(exchanger.stats.evictions, 1);
  assert.equal(exchanger.stats.memoryEntries, 1);
  assert.equal((await exchanger.exchange(request)).source, "issuer");
  assert.equal((await exchanger.exchange(kept)).source, "memory");
  assert.equal(requests.length, 4);
});

test("a write that an eviction overtakes is taken back", async () => {
  const store = new (class extends MapStore {
    #waiting = [];

    async put(...entry) {
      await new Promise((resolve) => this.#waiting.push(resolve));
      await super.put(...entry);
    }

    get isHeld() {
      return this.#waiting.length > 0;
    }

    release() {
      for (const resolve of this.#waiting.splice(0)) resolve();
    }
  })();
  const exchanger = isolates({ store }).isolate();
  const request = { assertion: unsignedToken(), scopes: scope };
  await exchanger.exchange(request);
  await until(() => store.isHeld);
  await exchanger.evict(request);
  assert.equal(store.deletes.length, 1);
  store.release();
  await until(() => store.deletes.length === 2);
  assert.deepEqual([...store.entries], []);
  // What is made after it stays.
  await exchanger.exchange(request);
  await until(() => store.isHeld);
  store.release();
  await store.written(2);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([store.entries.size, store.deletes.length], [1, 2]);
});

test("an eviction without a store forgets the memory", async () => {
  const endpoint = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch: endpoint.fetch }));
  const request = { assertion: unsignedToken(), scopes: scope };
  await exchanger.exchange(request);
  await exchanger.evict(request);
  await exchanger.evict(request);
  assert.equal(exchanger.stats.memoryEntries, 0);
  assert.equal((await exchanger.exchange(request)).source, "issuer");
});

test("an eviction forgets the memory even where the store does not, and says that it is unavailable", async () => {
  for (const remove of [() => assert.fail("thrown"), () => Promise.reject(new Error("rejected")), () => Promise.reject()]) {
    const { isolate } = isolates({ store: Object.assign(new MapStore(), { delete: remove }) });
    const events = [];
    const exchanger = isolate({ onEvent: ({ type }) => events.push(type) });
    const request = { assertion: unsignedToken(), scopes: scope };
    await exchanger.exchange(request);
    const error = await failureOf(exchanger.evict(request));
    assert.deepEqual([error.reason, error.retryable], ["unavailable", true]);
    assertNothingShows([error], [request.assertion, "thrown", "rejected"]);
    assert.equal(exchanger.stats.memoryEntries, 0);
    assert.equal(exchanger.stats.storeFailures, 1);
    assert.deepEqual(events.slice(-2), ["eviction", "store_failure"]);
  }
});

test("a store that fails at one of two names is asked for the other one too", async () => {
  const secrets = [1, 2].map(newStoreSecret);
  const asked = [];
  const store = Object.assign(new MapStore(), { delete: async (name) => (asked.push(name), assert.fail("thrown")) });
  const { isolate } = isolates({ store, storeSecrets: secrets });
  await failureOf(isolate().evict({ assertion: unsignedToken(), scopes: scope }));
  assert.equal(asked.length, 2);
});

test("a delete that never answers ends as unavailable", async () => {
  const { isolate } = isolates({ store: Object.assign(new MapStore(), { delete: never }) });
  const started = Date.now();
  const error = await failureOf(isolate().evict({ assertion: unsignedToken(), scopes: scope }));
  assert.equal(error.reason, "unavailable");
  assert.ok(Date.now() - started < 6000);
});
