// How long a token is believed to live, whatever the token endpoint says of it.
import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { TokenExchanger } from "obo-edge";
import { completeOptions, failureOf, scope, startIssuer, tokenEndpoint, tokenResponse, unsignedToken } from "./support.js";

const second = 1000;
const hour = 3600 * second;
const year = 365 * 24 * hour;

let issuer;

before(async () => {
  issuer = await startIssuer();
});
after(() => issuer.close());
beforeEach(() => issuer.faults.clear());

for (const [written, lifetime] of [
  ["3600", hour],
  ["60", 60 * second],
  [3600.9, hour],
  [1e18, year],
  ["99999999999", year],
  [Number.MAX_VALUE, year],
  [undefined, hour],
  [null, hour],
]) {
  test(`an expires_in of ${JSON.stringify(written)} ends after ${lifetime / second} s`, async () => {
    const exchanger = new TokenExchanger(issuer.exchangerOptions());
    issuer.faults.push({ members: { expires_in: written } });
    const before = Date.now();
    const request = { assertion: await issuer.mintUserToken(), scopes: scope };
    const token = await exchanger.exchange(request);
    const after = Date.now();
    assert.ok(Number.isSafeInteger(token.expiresAt));
    assert.ok(token.expiresAt >= before + lifetime && token.expiresAt <= after + lifetime, `${token.expiresAt - before}`);
    const again = await exchanger.exchange(request);
    assert.deepEqual([again.source, again.expiresAt], ["memory", token.expiresAt]);
  });
}

for (const written of ["abc", "", "3600 s", "-1", -1, 0, 0.5, -1e18, true, [3600], { seconds: 3600 }]) {
  test(`an expires_in of ${JSON.stringify(written)} is an invalid response, and nothing is kept`, async () => {
    const exchanger = new TokenExchanger(issuer.exchangerOptions());
    issuer.faults.push({ members: { expires_in: written } });
    const error = await failureOf(exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope }));
    assert.equal(error.reason, "invalid_response");
    assert.equal(error.field, "expires_in");
    assert.equal(exchanger.stats.memoryEntries, 0);
  });
}

for (const literal of ["NaN", "Infinity", "1e999", "0x10", "03600"]) {
  test(`an expires_in written as ${literal} never makes an entry without an end`, async () => {
    const exchanger = new TokenExchanger(issuer.exchangerOptions());
    const body = `{"token_type":"Bearer","access_token":"token","expires_in":${literal}}`;
    issuer.faults.push({ status: 200, headers: { "content-type": "application/json" }, body });
    const error = await failureOf(exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope }));
    assert.equal(error.reason, "invalid_response");
    assert.equal(exchanger.stats.memoryEntries, 0);
  });
}

test("a token is not served past the assertion that it is presented for", async () => {
  // An assertion that ends in a second would not be looked at twice.
  const exchanger = new TokenExchanger(issuer.exchangerOptions({ inspectAssertion: false }));
  const assertion = await issuer.mintUserToken({ lifetimeSeconds: 1 });
  await exchanger.exchange({ assertion, scopes: scope });
  await new Promise((resolve) => setTimeout(resolve, 1100));
  const error = await failureOf(exchanger.exchange({ assertion, scopes: scope }));
  assert.equal(error.reason, "assertion_rejected");
});

test("a shared token is not served to an assertion that has expired", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  const subject = { issuer: issuer.issuer, id: "ada" };
  await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope, subject });
  const expired = await issuer.mintUserToken({ lifetimeSeconds: -60 });
  const error = await failureOf(exchanger.exchange({ assertion: expired, scopes: scope, subject }));
  assert.equal(error.reason, "assertion_rejected");
});

test("a token serves for maxLifetimeMs at most, and then another is made", async () => {
  const endpoint = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch: endpoint.fetch, maxLifetimeMs: 1000 }));
  const request = { assertion: unsignedToken(), scopes: scope };
  const token = await exchanger.exchange(request);
  assert.ok(token.expiresAt > Date.now() + hour - 10 * second, "the token's own expiry is told as it is");
  assert.equal((await exchanger.exchange(request)).source, "memory");
  await new Promise((resolve) => setTimeout(resolve, 1050));
  assert.equal((await exchanger.exchange(request)).source, "issuer");
  assert.equal(endpoint.requests.length, 2);
});

test("a token of two seconds serves for one", async () => {
  const endpoint = tokenEndpoint(() => tokenResponse({ expires_in: 2 }));
  const exchanger = new TokenExchanger(completeOptions({ fetch: endpoint.fetch }));
  const request = { assertion: unsignedToken(), scopes: scope };
  await exchanger.exchange(request);
  assert.equal((await exchanger.exchange(request)).source, "memory");
  await new Promise((resolve) => setTimeout(resolve, 1050));
  assert.equal((await exchanger.exchange(request)).source, "issuer");
});

test("an assertion whose expiry cannot be read is exchanged and cached like any other", async () => {
  for (const assertion of ["opaque", "a.b.c", unsignedToken({ exp: "soon" }), unsignedToken({ exp: null }), unsignedToken({ exp: 1e300 })]) {
    const endpoint = tokenEndpoint();
    const exchanger = new TokenExchanger(completeOptions({ fetch: endpoint.fetch }));
    await exchanger.exchange({ assertion, scopes: scope });
    assert.equal((await exchanger.exchange({ assertion, scopes: scope })).source, "memory");
  }
});
