// The ID-JAG is kept in memory on its own: for whom, how long, and what becomes of it where it is refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import { errorAnswer } from "../servers/authorization-server.js";
import { outline, unavailable } from "./local-issuer.js";
import { failureOf, tokenFor } from "./support.js";
import { idJagMembers, idToken, legs, madeFor, newIdJag, resource, scope, twoLegExchanger, twoServers } from "./two-servers.js";

const minute = 60_000;
const invalidGrant = errorAnswer("invalid_grant");
const rejected = { reason: "assertion_rejected", field: undefined, retryable: false };
const request = (changes) => ({ assertion: idToken(), scopes: scope, resource, ...changes });
const presented = (servers) => servers.resourceServer.tokenRequests.map(({ form }) => form.get("assertion"));

/** Both servers, an exchanger, and a request whose ID-JAG it holds, for the second leg was answered 503. */
async function keptIdJag(t, { first, second } = {}) {
  const servers = await twoServers(t, { first, second: { token: (seen, count) => (count === 1 ? 503 : second?.(seen, count)) } });
  const exchanger = twoLegExchanger(servers, { retry: { attempts: 1 } });
  const asked = request();
  assert.deepEqual(outline(await failureOf(exchanger.exchange(asked))), unavailable(undefined));
  assert.deepEqual(legs(servers), [1, 1]);
  return { servers, exchanger, asked };
}

test("an exchange goes on from the ID-JAG that an earlier one has got", async (t) => {
  const { servers, exchanger, asked } = await keptIdJag(t);
  const token = await exchanger.exchange(asked);
  assert.deepEqual([token.source, token.accessToken], ["issuer", tokenFor(asked.assertion)]);
  assert.deepEqual(legs(servers), [1, 2]);
  const [first, second] = presented(servers);
  assert.equal(first, second);
});

test("a second leg that failed for a moment goes on where it was", async (t) => {
  for (const fault of ["reset", 503]) {
    const servers = await twoServers(t, { second: { token: (_request, count) => (count < 3 ? fault : undefined) } });
    const exchanger = twoLegExchanger(servers);
    const asked = request();
    assert.deepEqual(outline(await failureOf(exchanger.exchange(asked))), unavailable(undefined));
    assert.deepEqual(legs(servers), [1, 2], "a retry is one of the second leg alone");
    assert.equal((await exchanger.exchange(asked)).source, "issuer");
    assert.deepEqual(legs(servers), [1, 3]);
  }
});

test("fromCache: false asks the identity provider too", async (t) => {
  const { servers, exchanger, asked } = await keptIdJag(t);
  await exchanger.exchange({ ...asked, fromCache: false });
  assert.deepEqual(legs(servers), [2, 2]);
});

test("an eviction forgets the ID-JAG too", async (t) => {
  const { servers, exchanger, asked } = await keptIdJag(t);
  await exchanger.evict(asked);
  await exchanger.exchange(asked);
  assert.deepEqual(legs(servers), [2, 2]);
});

test("an ID-JAG is kept no longer than it says itself", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  // The server's word is not believed for longer than the assertion's own.
  const token = ({ form }) => ({ body: { ...idJagMembers(form), expires_in: 86_400 } });
  const { servers, exchanger, asked } = await keptIdJag(t, { first: { token } });
  t.mock.timers.tick(5 * minute);
  await exchanger.exchange(asked);
  assert.deepEqual(legs(servers), [2, 2]);
});

test("an ID-JAG is kept no longer than expires_in says", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const inADay = Math.floor(Date.now() / 1000) + 86_400;
  const token = ({ form }) => ({ body: { ...idJagMembers(form), access_token: newIdJag(form, { claims: { exp: inADay } }), expires_in: 300 } });
  const { servers, exchanger, asked } = await keptIdJag(t, { first: { token } });
  t.mock.timers.tick(5 * minute);
  await exchanger.exchange(asked);
  assert.deepEqual(legs(servers), [2, 2]);
});

test("a kept ID-JAG that is refused is dropped, and the identity provider is asked once more", async (t) => {
  const { servers, exchanger, asked } = await keptIdJag(t, { second: (_request, count) => (count === 2 ? invalidGrant : undefined) });
  assert.equal((await exchanger.exchange(asked)).source, "issuer");
  assert.deepEqual(legs(servers), [2, 3]);
  const [first, second, third] = presented(servers);
  assert.equal(first, second);
  assert.notEqual(second, third);
});

test("where the fresh one is refused too, the assertion is rejected after that one more", async (t) => {
  const { servers, exchanger, asked } = await keptIdJag(t, { second: (_request, count) => (count > 1 ? invalidGrant : undefined) });
  const error = await failureOf(exchanger.exchange(asked));
  assert.deepEqual(outline(error), rejected);
  assert.equal(error.error, "invalid_grant");
  assert.deepEqual(legs(servers), [2, 3]);
});

test("a fresh ID-JAG that is refused is rejected at once, and not kept", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const servers = await twoServers(t, { second: { token: (_request, count) => (count === 1 ? invalidGrant : undefined) } });
  const exchanger = twoLegExchanger(servers);
  const asked = request();
  assert.deepEqual(outline(await failureOf(exchanger.exchange(asked))), rejected);
  assert.deepEqual(legs(servers), [1, 1]);
  t.mock.timers.tick(60_000);
  assert.equal((await exchanger.exchange(asked)).source, "issuer");
  assert.deepEqual(legs(servers), [2, 2]);
});

test("a refusal of the client or the scope is no refusal of the ID-JAG", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  for (const answer of [errorAnswer("invalid_client", {}, 401), errorAnswer("invalid_scope")]) {
    const { servers, exchanger, asked } = await keptIdJag(t, { second: (_request, count) => (count === 2 ? answer : undefined) });
    assert.equal((await failureOf(exchanger.exchange(asked))).reason, "misconfigured");
    t.mock.timers.tick(10_000);
    await exchanger.exchange(asked);
    assert.deepEqual(legs(servers), [1, 3]);
  }
});

test("two users never share an ID-JAG, one after the other or at once", async (t) => {
  const { servers, exchanger } = await keptIdJag(t);
  const users = Array.from({ length: 8 }, () => idToken());
  const tokens = await Promise.all(users.map((assertion) => exchanger.exchange(request({ assertion }))));
  assert.deepEqual(tokens.map(({ accessToken }) => accessToken), users.map(tokenFor));
  assert.deepEqual(legs(servers), [9, 9]);
  assert.deepEqual(new Set(presented(servers).slice(1).map(madeFor)), new Set(users.map((assertion) => assertion.slice(-24))));
});

test("one user's refused ID-JAG leaves another user's as it is", async (t) => {
  let refusedUser;
  const token = ({ form }) => (madeFor(form.get("assertion")) === refusedUser ? invalidGrant : undefined);
  const { servers, exchanger, asked } = await keptIdJag(t, { second: token });
  const other = request();
  refusedUser = other.assertion.slice(-24);
  assert.deepEqual(outline(await failureOf(exchanger.exchange(other))), rejected);
  await exchanger.exchange(asked);
  assert.deepEqual(legs(servers), [2, 3]);
});

test("an ID-JAG serves the scopes and the resource that it was made for, and no other", async (t) => {
  const { servers, exchanger, asked } = await keptIdJag(t);
  await exchanger.exchange({ ...asked, scopes: "files.write" });
  await exchanger.exchange({ ...asked, resource: "https://files.example/other" });
  assert.deepEqual(legs(servers), [3, 3]);
});

test("two exchangers share no ID-JAG", async (t) => {
  const { servers, asked } = await keptIdJag(t);
  await twoLegExchanger(servers).exchange(asked);
  assert.deepEqual(legs(servers), [2, 2]);
});

test("calls for the same user at once make one ID-JAG and one token", async (t) => {
  const servers = await twoServers(t);
  const exchanger = twoLegExchanger(servers);
  const asked = request();
  const tokens = await Promise.all([1, 2, 3].map(() => exchanger.exchange(asked)));
  assert.deepEqual(legs(servers), [1, 1]);
  assert.equal(new Set(tokens.map(({ accessToken }) => accessToken)).size, 1);
});
