// What a coordinator is told, and the options that concern it. Its objects run in tests/workers/coordinator.test.js.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ExchangeError, TokenExchanger } from "obo-edge";
import { MapStore, newStoreSecret } from "./support.js";

const options = (members) => ({
  tokenEndpoint: "https://login.example/token",
  clientId: "gateway",
  clientAuthentication: { method: "client_secret_post", clientSecret: "hunter2" },
  grant: "token-exchange",
  inspectAssertion: false,
  fetch: async () => Response.json({ access_token: "t", token_type: "Bearer", issued_token_type: "urn:ietf:params:oauth:token-type:access_token" }),
  ...members,
});

test("an option that is no coordinator, a name that is none and a missing secret are named", () => {
  const storeSecrets = newStoreSecret();
  for (const [members, field] of [
    [{ coordinator: {}, storeSecrets }, "coordinator"],
    [{ coordinator: "OBO_COORDINATOR", storeSecrets }, "coordinator"],
    [{ coordinator: { idFromName() {} }, storeSecrets }, "coordinator"],
    [{ coordinator: { idFromName() {}, get() {} } }, "storeSecrets"],
    [{ name: 7 }, "name"],
    [{ name: "" }, "name"],
  ]) {
    assert.throws(() => new TokenExchanger(options(members)), (error) => error instanceof ExchangeError && error.reason === "misconfigured" && error.field === field, field);
  }
  for (const coordinator of [null, undefined]) new TokenExchanger(options({ coordinator }));
});

test("it is told the exchanger's name, the assertion and what is asked for, and no endpoint, secret or digest", async () => {
  const calls = [];
  const names = [];
  const coordinator = {
    idFromName: (name) => (names.push(name), { name }),
    get: ({ name }) => ({
      exchange: async (call) => (calls.push(["exchange", name, call]), "noise"),
      evict: async (call) => void calls.push(["evict", name, call]),
    }),
  };
  const exchanger = new TokenExchanger(options({ coordinator, name: "files", storeSecrets: newStoreSecret() }));
  const request = { assertion: "a.b.c", scopes: "write read", resource: ["https://b.example", "https://a.example"], audience: "aud" };
  await exchanger.exchange({ ...request, signal: new AbortController().signal });
  await exchanger.exchange({ ...request, fromCache: false });
  await exchanger.exchange({ ...request, subject: { issuer: "https://i.example", id: "ada", context: "secret context" } });
  await exchanger.evict(request);
  const told = { assertion: "a.b.c", scopes: ["read", "write"], resource: ["https://a.example", "https://b.example"], audience: ["aud"] };
  const [first, forced, shared, evicted] = calls;
  assert.deepEqual(first, ["exchange", names[0], { exchanger: "files", request: told, fromCache: true, shared: false }]);
  assert.deepEqual(forced[2], { exchanger: "files", request: told, fromCache: false, shared: false });
  assert.deepEqual(shared[2], { exchanger: "files", request: told, fromCache: true, shared: true });
  assert.deepEqual(evicted, ["evict", names[0], { exchanger: "files", request: told, refused: false, shared: false }]);
  assert.equal(names[0], names[1]);
  assert.notEqual(names[0], shared[1]);
  assert.match(names[0], /^[\w-]{43}$/);
});

test("an eviction reaches the objects of every listed secret, and names each in the store", async () => {
  const evicted = [];
  const coordinator = {
    idFromName: (name) => name,
    get: (name) => ({ exchange: async () => "noise", evict: async () => void evicted.push(name) }),
  };
  const store = new MapStore();
  const exchanger = new TokenExchanger(options({ coordinator, store, storeSecrets: [newStoreSecret(), newStoreSecret()] }));
  await exchanger.evict({ assertion: "a.b.c", scopes: "read" });
  assert.equal(new Set(evicted).size, 2);
  assert.deepEqual(store.deletes, evicted);
});

test("a binding of before remote procedure calls, which has no such method, costs an event and no call", async () => {
  const coordinator = { idFromName: (name) => name, get: () => ({ fetch() {} }) };
  const exchanger = new TokenExchanger(options({ coordinator, storeSecrets: newStoreSecret() }));
  assert.equal((await exchanger.exchange({ assertion: "a.b.c", scopes: "read" })).source, "issuer");
  assert.equal(exchanger.stats.coordinatorFailures, 1);
});

test("a hit in the last fifth is answered at once and renewed behind it, with the request's context", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  let count = 0;
  const fetch = async () => Response.json({ access_token: `t${(count += 1)}`, token_type: "Bearer", issued_token_type: "urn:ietf:params:oauth:token-type:access_token", expires_in: 3600 });
  const exchanger = new TokenExchanger(options({ fetch }));
  const request = { assertion: "a.b.c", scopes: "read" };
  await exchanger.exchange(request);
  t.mock.timers.tick(50 * 60_000);
  const kept = [];
  const ctx = { waitUntil: (promise) => kept.push(promise) };
  const hits = await Promise.all(Array.from({ length: 10 }, () => exchanger.exchange(request, ctx)));
  assert.deepEqual(new Set(hits.map(({ accessToken, source }) => `${accessToken} ${source}`)), new Set(["t1 memory"]));
  assert.equal(kept.length, 1);
  await Promise.all(kept);
  const renewed = await exchanger.exchange(request);
  assert.deepEqual([renewed.accessToken, renewed.source, count, exchanger.stats.renewals], ["t2", "memory", 2, 1]);
});
