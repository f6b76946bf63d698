/** A server that refuses a token from a cache: a fresh one is tried, once. */

import assert from "node:assert/strict";
import { text } from "node:stream/consumers";
import { after, before, beforeEach, test } from "node:test";
import { startGatewayWorld } from "./fixtures/gateway-world.js";

let world;
before(async () => (world = await startGatewayWorld({ gateways: () => ({ gateway: {}, refused: {}, throttled: {} }) })));
after(() => world.close());
beforeEach(() => world.reset());

let users = 0;
/** A user whose token the gateway has in memory, and that token. */
async function userInMemory(options = {}) {
  const token = await world.mint({ subject: `refused-${(users += 1)}` });
  const { json } = await world.call({ token, body: "{}", ...options });
  const exchanged = json().authorization;
  world.identityProvider.tokenRequests.length = 0;
  world.upstream.requests.length = 0;
  return { token, exchanged };
}

/** From now on the server takes no token that it was shown before, and says so in its own words. */
function refuse(...refused) {
  world.upstream.answer = async (request, response) => {
    const body = await text(request);
    if (refused.includes(request.headers.authorization)) {
      response.writeHead(401, { "www-authenticate": 'Bearer realm="of the server"' });
      return response.end("words of the server");
    }
    response.setHeader("content-type", "application/json");
    return response.end(JSON.stringify({ authorization: request.headers.authorization, body, method: request.method }));
  };
}

const sentTokens = () => world.upstream.requests.map(({ headers }) => headers.authorization);

for (const [what, options] of Object.entries({ "with a body": { body: '{"é":1}' }, "without one": { method: "GET" }, "that deletes": { method: "DELETE" } })) {
  test(`a request ${what} whose cached token is refused is repeated once with a fresh one`, async () => {
    const { token, exchanged } = await userInMemory();
    refuse(exchanged);
    const { status, headers, json } = await world.call({ token, headers: { "mcp-session-id": "session 1" }, ...options });
    assert.equal(status, 200);
    assert.deepEqual([json().body, json().method], [options.body ?? "", options.method ?? "POST"]);
    const [first, second] = sentTokens();
    assert.deepEqual([first, json().authorization], [exchanged, second]);
    assert.notEqual(second, first);
    assert.deepEqual(world.reached(), { tokenEndpoint: 1, upstream: 2 });
    assert.deepEqual(world.upstream.requests.map((request) => request.headers["mcp-session-id"]), ["session 1", "session 1"]);
    assert.match(headers["server-timing"], /^obo;dur=\d+;desc="issuer"$/);
    assert.equal((await world.call({ token, body: "{}" })).headers["server-timing"].includes("memory"), true, "the fresh one serves");
  });
}

test("a fresh token that is refused is answered 502 and not tried again, and the server's words stay", async () => {
  const token = await world.mint({ subject: "refused-at-once" });
  world.upstream.answer = async (request, response) => {
    await text(request);
    response.writeHead(401, { "www-authenticate": "Bearer" }).end("words of the server");
  };
  const { status, headers, body } = await world.call({ token, body: "{}" });
  assert.deepEqual([status, headers["www-authenticate"], body.includes("words")], [502, undefined, false]);
  assert.deepEqual(world.reached(), { tokenEndpoint: 1, upstream: 1 });
});

test("a server that refuses whatever it gets is asked twice by a request, and once a minute for a token", async () => {
  const { token } = await userInMemory({ gateway: "refused" });
  world.upstream.answer = async (request, response) => {
    await text(request);
    response.writeHead(401).end();
  };
  const call = () => world.call({ gateway: "refused", token, body: "{}" });
  assert.equal((await call()).status, 502);
  assert.deepEqual(world.reached(), { tokenEndpoint: 1, upstream: 2 });
  for (let again = 0; again < 3; again += 1) assert.equal((await call()).status, 502);
  assert.deepEqual(world.reached(), { tokenEndpoint: 1, upstream: 5 });
});

test("ten requests whose cached token is refused at once make one more token request", async () => {
  const { token, exchanged } = await userInMemory();
  refuse(exchanged);
  const answers = await Promise.all(Array.from({ length: 10 }, () => world.call({ token, body: "{}" })));
  assert.deepEqual(answers.map(({ status }) => status), Array(10).fill(200));
  assert.equal(world.reached().tokenEndpoint, 1);
  assert.equal(new Set(answers.map(({ json }) => json().authorization)).size, 1);
});

test("a body that cannot be sent again is answered 502, and the next request has a fresh token", async () => {
  for (const body of [(async function* pieces() { yield "{"; yield "}"; })(), `"${"x".repeat(1024 * 1024)}"`]) {
    const { token, exchanged } = await userInMemory();
    refuse(exchanged);
    assert.equal((await world.call({ token, body })).status, 502);
    assert.deepEqual(world.reached(), { tokenEndpoint: 1, upstream: 1 });
    const { status, json } = await world.call({ token, body: "{}" });
    assert.equal(status, 200);
    assert.notEqual(json().authorization, exchanged);
  }
});

test("an exchange that fails after the refusal is answered by its own failure", async () => {
  const { token, exchanged } = await userInMemory({ gateway: "throttled" });
  refuse(exchanged);
  world.identityProvider.faults.push({ status: 400, body: { error: "interaction_required", claims: '{"a":1}' } });
  const { status, headers } = await world.call({ gateway: "throttled", token, body: "{}" });
  assert.equal(status, 401);
  assert.match(headers["www-authenticate"], /error="insufficient_claims"/);
  assert.deepEqual(world.reached(), { tokenEndpoint: 1, upstream: 1 });
});

test("one user's refused token leaves another user's as it is", async () => {
  const [ada, bob] = [await userInMemory(), await userInMemory()];
  refuse(ada.exchanged);
  assert.equal((await world.call({ token: ada.token, body: "{}" })).status, 200);
  const { json, headers } = await world.call({ token: bob.token, body: "{}" });
  assert.equal(json().authorization, bob.exchanged);
  assert.match(headers["server-timing"], /desc="memory"/);
});
