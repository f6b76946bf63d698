/** What is no good answer of a token endpoint, as a real connection brings it. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { tokenResponse } from "./fixtures/partner.js";
import { requestOf, startWorld } from "./fixtures/world.js";

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

const html = "<!doctype html><title>Sign in</title><p>Sign in to the network, assertion-of-ada.";

for (const { name, answer, reason = "invalid_response", field, status } of [
  { name: "a body of 10 MB", answer: "huge" },
  { name: "a page with status 200", answer: { body: html }, status: 200 },
  { name: "a page with status 403", answer: { status: 403, body: html }, status: 403 },
  { name: "an empty body", answer: { body: "" }, status: 200 },
  { name: "a redirect", answer: { status: 307, headers: { location: "/elsewhere" }, body: "" }, field: "tokenEndpoint" },
  { name: "a redirect to another host", answer: { status: 302, headers: { location: "http://attacker.example/token" }, body: "" }, field: "tokenEndpoint" },
  { name: "the assertion itself as the token", answer: (parameters) => ({ body: tokenResponse(parameters, 1, { access_token: parameters.assertion }) }), field: "access_token", status: 200 },
  { name: "no access_token", answer: (parameters) => ({ body: tokenResponse(parameters, 1, { access_token: undefined }) }), field: "access_token", status: 200 },
  { name: "a token_type that is not Bearer", answer: (parameters) => ({ body: tokenResponse(parameters, 1, { token_type: "pop" }) }), field: "token_type", status: 200 },
  ...["abc", -1, 0, "-1", true].map((value) => ({
    name: `expires_in ${JSON.stringify(value)}`,
    answer: (parameters) => ({ body: tokenResponse(parameters, 1, { expires_in: value }) }),
    field: "expires_in",
    status: 200,
  })),
]) {
  test(`${name} is ${reason}: no token, no second attempt, nothing kept, nothing of it in the error`, async () => {
    const exchanger = world.exchanger({ store: "remote" });
    world.partner.answer = answer;
    const { token, error } = await exchanger.exchange({ request: requestOf("ada") });
    assert.equal(token, undefined);
    assert.deepEqual([error.isExchangeError, error.reason, error.retryable], [true, reason, false]);
    assert.equal(error.field, field);
    if (status) assert.equal(error.status, status);
    assert.ok(!JSON.stringify(error).includes("assertion-of-ada"), JSON.stringify(error));
    assert.equal(world.partner.tokenRequests.length, 1);
    const { flights, memoryEntries } = await exchanger.stats();
    assert.deepEqual([flights, memoryEntries, world.partner.entries.size], [0, 0, 0]);
    world.partner.answer = undefined;
    assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
  });
}

for (const [value, seconds] of [["3600", 3600], [1e18, 365 * 24 * 3600], [null, 3600], [undefined, 3600], [1.9, 1]]) {
  test(`expires_in ${JSON.stringify(value)} gives a token that ends`, async () => {
    const exchanger = world.exchanger();
    world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, 1, { expires_in: value }) });
    const { token } = await exchanger.exchange({ request: requestOf("ada") });
    assert.ok(Math.abs(token.expiresAt - Date.now() - seconds * 1000) < 5000, `${token.expiresAt}`);
  });
}

test("a body of 10 MB is not read to its end", async () => {
  const exchanger = world.exchanger();
  world.partner.answer = "huge";
  const before = (await exchanger.inspect()).memoryBytes;
  for (let round = 0; round < 5; round += 1) await exchanger.exchange({ request: requestOf("ada") });
  const grown = (await exchanger.inspect()).memoryBytes - before;
  assert.ok(grown < 5_000_000, `the memory grew by ${grown} bytes`);
});

test("a refresh token in the response is neither answered nor kept", async () => {
  const exchanger = world.exchanger();
  world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, 1, { refresh_token: "secret-refresh" }) });
  const { token } = await exchanger.exchange({ request: requestOf("ada") });
  assert.deepEqual(Object.keys(token).sort(), ["accessToken", "expiresAt", "scope", "source", "tokenType"]);
});

test("a 503 and a 429 are tried once more, a Retry-After that does not fit ends the exchange", async () => {
  const exchanger = world.exchanger({ options: { retry: { delayMs: 20 } } });
  for (const status of [503, 429]) {
    world.partner.answers.push(status);
    assert.equal((await exchanger.exchange({ request: requestOf(`user-${status}`) })).token.source, "issuer");
  }
  assert.equal((await exchanger.stats()).retries, 2);
  world.partner.answers.push({ status: 503, headers: { "retry-after": "3000" }, body: "" });
  const { error } = await exchanger.exchange({ request: requestOf("ada") });
  assert.deepEqual([error.reason, error.status, error.retryAfter], ["unavailable", 503, 3000]);
});
