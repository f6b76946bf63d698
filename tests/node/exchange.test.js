// The package against a real identity provider, npm `oidc-provider`.
import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { decodeJwt } from "jose";
import * as oboEdge from "obo-edge";
import { gatewayClient } from "../servers/identity-provider.js";
import { failureOf, scope, startIssuer } from "./support.js";

const { TokenExchanger } = oboEdge;
let issuer;

before(async () => {
  issuer = await startIssuer();
});
after(() => issuer.close());
beforeEach(() => {
  issuer.faults.clear();
  issuer.tokenRequests.length = 0;
});

test("the package exports two classes and nothing to initialise", () => {
  assert.deepEqual(Object.keys(oboEdge).sort(), ["ExchangeError", "TokenExchanger"]);
  assert.ok(oboEdge.ExchangeError.prototype instanceof Error);
});

for (const method of ["client_secret_post", "client_secret_basic"]) {
  test(`a user's token is exchanged with ${method}`, async () => {
    const clientAuthentication = { method, clientSecret: gatewayClient.clientSecret };
    const exchanger = new TokenExchanger(issuer.exchangerOptions({ clientAuthentication }));
    const before = Date.now();
    const token = await exchanger.exchange({ assertion: await issuer.mintUserToken({ subject: "ada" }), scopes: scope });

    const claims = decodeJwt(token.accessToken);
    assert.equal(claims.aud, "api://mcp-files");
    assert.equal(claims.sub, "ada");
    assert.equal(claims.scp, "tools.call");
    assert.equal(claims.azp, gatewayClient.clientId);
    assert.deepEqual(
      { tokenType: token.tokenType, scope: token.scope, source: token.source },
      { tokenType: "Bearer", scope, source: "issuer" },
    );
    assert.deepEqual(Object.keys(token).sort(), ["accessToken", "expiresAt", "scope", "source", "tokenType"]);
    // From when the request left, so never later than the token itself.
    assert.ok(token.expiresAt >= before + 3_600_000 && token.expiresAt <= claims.exp * 1000 + 1000);

    assert.equal(issuer.tokenRequests.length, 1);
    const [request] = issuer.tokenRequests;
    assert.equal(request.clientAuthentication, method);
    assert.equal(request.clientId, gatewayClient.clientId);
    assert.equal(request.grantType, "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert.equal(request.scope, scope);
  });
}

test("a wrong client secret is misconfigured, with either client authentication", async () => {
  for (const method of ["client_secret_post", "client_secret_basic"]) {
    const clientAuthentication = { method, clientSecret: "not the secret" };
    const exchanger = new TokenExchanger(issuer.exchangerOptions({ clientAuthentication }));
    const error = await failureOf(exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope }));
    assert.equal(error.reason, "misconfigured");
    assert.equal(error.error, "invalid_client");
    assert.deepEqual(error.errorCodes, [7000215]);
    assert.equal(error.status, 401);
  }
});

test("scopes may be one string, several in a string, or a list, in any order, and are one key", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  const assertion = await issuer.mintUserToken();
  const call = "api://mcp-files/tools.call";
  const read = "api://mcp-files/tools.read";
  const first = await exchanger.exchange({ assertion, scopes: `${read} ${call}` });
  assert.equal(first.source, "issuer");
  for (const scopes of [[call, read], [read, call, read], ` ${call}  ${read} `, [`${call} ${read}`]]) {
    const again = await exchanger.exchange({ assertion, scopes });
    assert.equal(again.source, "memory");
    assert.equal(again.accessToken, first.accessToken);
  }
  const fewer = await exchanger.exchange({ assertion, scopes: call });
  assert.equal(fewer.source, "issuer");
  assert.notEqual(fewer.accessToken, first.accessToken);
});

test("the claims of a challenge reach the token endpoint and are part of the key", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  const assertion = await issuer.mintUserToken();
  const claims = JSON.stringify({ access_token: { acrs: { essential: true, value: "c1" } } });
  await exchanger.exchange({ assertion, scopes: scope });
  const token = await exchanger.exchange({ assertion, scopes: scope, claims });
  assert.equal(token.source, "issuer");
  assert.equal(issuer.tokenRequests.at(-1).claims, claims);
  assert.equal((await exchanger.exchange({ assertion, scopes: scope, claims })).source, "memory");
});

test("a verified subject shares a token among that user's assertions, and with nobody else", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  const exchange = async (id, context) => {
    const assertion = await issuer.mintUserToken({ subject: id });
    return exchanger.exchange({ assertion, scopes: scope, subject: { issuer: issuer.issuer, id, context } });
  };
  const ada = await exchange("ada");
  const adaAgain = await exchange("ada");
  assert.deepEqual([ada.source, adaAgain.source], ["issuer", "memory"]);
  assert.equal(adaAgain.accessToken, ada.accessToken);
  const grace = await exchange("grace");
  assert.equal(grace.source, "issuer");
  assert.equal(decodeJwt(grace.accessToken).sub, "grace");
  assert.equal((await exchange("ada", "another session")).source, "issuer");
});

test("a request asks for the form and for JSON, without following redirects or caching", async () => {
  let seen;
  const fetch = (url, init) => {
    seen = { url, init, headers: new Headers(init.headers) };
    return globalThis.fetch(url, init);
  };
  const exchanger = new TokenExchanger(issuer.exchangerOptions({ fetch }));
  await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope });
  assert.equal(seen.url, issuer.tokenEndpoint);
  assert.equal(seen.init.method, "POST");
  assert.equal(seen.init.redirect, "manual");
  assert.equal(seen.headers.get("content-type"), "application/x-www-form-urlencoded");
  assert.equal(seen.headers.get("accept"), "application/json");
  assert.equal(seen.headers.get("authorization"), null);
  assert.ok(seen.init.signal instanceof AbortSignal);
});

test("a binding with a method fetch is called as its own method", async () => {
  class Binding {
    #calls = 0;
    fetch(url, init) {
      this.#calls += 1;
      return globalThis.fetch(url, init);
    }
    get calls() {
      return this.#calls;
    }
  }
  const binding = new Binding();
  const exchanger = new TokenExchanger(issuer.exchangerOptions({ fetch: binding }));
  await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope });
  assert.equal(binding.calls, 1);
});

test("two exchangers in one process share neither tokens nor counters", async () => {
  const [one, other] = [1, 2].map(() => new TokenExchanger(issuer.exchangerOptions()));
  const request = { assertion: await issuer.mintUserToken(), scopes: scope };
  assert.equal((await one.exchange(request)).source, "issuer");
  assert.equal(other.stats.tokenRequests, 0);
  assert.equal((await other.exchange(request)).source, "issuer");
  assert.equal(one.stats.tokenRequests, 1);
});

test("the counters say what happened", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  const zero = Object.entries(exchanger.stats).filter(([, count]) => count !== 0);
  assert.deepEqual(zero, []);
  const request = { assertion: await issuer.mintUserToken(), scopes: scope };
  issuer.faults.push(503);
  await exchanger.exchange(request);
  await exchanger.exchange(request);
  const { memoryBytes, ...stats } = exchanger.stats;
  assert.deepEqual(stats, {
    memoryHits: 1,
    storeHits: 0,
    joins: 0,
    tokenRequests: 2,
    retries: 1,
    takeovers: 0,
    tokens: 1,
    failures: 0,
    lastResorts: 0,
    storeFailures: 0,
    sealFailures: 0,
    evictions: 0,
    metadataRequests: 0,
    metadataFailures: 0,
    coordinatorHits: 0,
    coordinatorFailures: 0,
    renewals: 0,
    throttles: 0,
    rememberedFailures: 0,
    flights: 0,
    memoryEntries: 1,
  });
  assert.ok(memoryBytes > 0);
});
