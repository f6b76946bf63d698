/** Exchanges that fail, keys that cannot be had: each is answered by the table, and nothing reaches the server. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before, beforeEach, test } from "node:test";
import { parametersOf, publicOrigin, serverOf, startGatewayWorld } from "./fixtures/gateway-world.js";

const metadataUrl = `${publicOrigin}/.well-known/oauth-protected-resource/mcp/files`;

/** Key sets and metadata that are no use, by path: no statement about any token follows from them. */
const uselessKeys = {
  "not JSON": "<!doctype html>",
  "no object": "[]",
  "no list of keys": '{"keys":{}}',
  "a list of other things": '{"keys":["x",1]}',
  "too long": `{"keys":[],"x":"${"x".repeat(1_100_000)}"}`,
};

let world;
let keyServer;
const keyRequests = [];
before(async () => {
  keyServer = createServer((request, response) => {
    keyRequests.push(request.url);
    const what = decodeURIComponent(request.url.slice(1));
    if (what === "redirect") return response.writeHead(302, { location: `${world.identityProvider.jwksUri}` }).end();
    if (what === "silent") return undefined;
    return response.end(uselessKeys[what]);
  }).listen(0, "127.0.0.1");
  await once(keyServer, "listening");
  const keysAt = (what) => `http://127.0.0.1:${keyServer.address().port}/${encodeURIComponent(what)}`;
  world = await startGatewayWorld({
    gateways: (parts) => {
      const servers = {
        files: serverOf(parts),
        consenting: serverOf(parts, { obo: { consentScope: "api://gateway/consent" } }),
      };
      [...Object.keys(uselessKeys), "redirect", "silent"].forEach((what, index) => {
        servers[`keys-${index}`] = serverOf(parts, { inbound: { jwksUri: keysAt(what) } });
      });
      return { gateway: { servers }, cold: {}, fresh: {}, throttled: {} };
    },
  });
});
after(async () => {
  await world.close();
  keyServer.close();
  keyServer.closeAllConnections();
});
beforeEach(() => world.reset());

let users = 0;
/** A call by a user of its own, so that no cached token spares the exchange. */
async function fail(subject = `user-${(users += 1)}`, options = {}) {
  const token = await world.mint({ subject });
  const answer = await world.call({ token, body: '{"secret":"body"}', ...options });
  assert.equal(world.reached().upstream, 0, "nothing reaches the server");
  assert.equal(answer.headers["cache-control"], "no-store");
  const [, , signature] = token.split(".");
  assert.ok(!JSON.stringify([answer.headers, answer.body]).includes(signature), "the token does not come back");
  assert.ok(!/AADSTS|Trace ID|hunter2|s3cret/.test(JSON.stringify([answer.headers, answer.body])), "words of the identity provider do not come back");
  return answer;
}

function assertRetryAfter({ status, headers }, seconds) {
  assert.equal(status, 503);
  assert.equal(headers["www-authenticate"], undefined);
  assert.equal(headers["retry-after"], String(seconds));
}

test("missing consent is answered 403, with the consent scope where one is configured", async () => {
  const plain = await fail("consent-required");
  assert.deepEqual([plain.status, plain.headers["www-authenticate"]], [403, undefined]);
  const { status, headers } = await fail("consent-required", { path: "/mcp/consenting" });
  assert.equal(status, 403);
  assert.deepEqual(parametersOf(headers["www-authenticate"]), {
    error: "insufficient_scope",
    resource_metadata: metadataUrl.replace("files", "consenting"),
    scope: "api://gateway/consent",
  });
});

test("a claims challenge is answered 401 with the claims in base64 and the metadata, in one header", async () => {
  const { status, headers } = await fail("mfa-required");
  assert.equal(status, 401);
  const { error, claims, resource_metadata: metadata } = parametersOf(headers["www-authenticate"]);
  assert.deepEqual({ error, metadata }, { error: "insufficient_claims", metadata: metadataUrl });
  assert.ok("capolids" in JSON.parse(Buffer.from(claims, "base64").toString()).access_token);
});

test("claims that would break out of the header do not", async () => {
  const claims = '{"access_token":{"x":{"value":"\\", error=\\"none\\"\\r\\nSet-Cookie: a=1"}}}';
  world.identityProvider.faults.push({ status: 400, body: { error: "interaction_required", claims } });
  const { headers } = await fail();
  assert.equal(Buffer.from(parametersOf(headers["www-authenticate"]).claims, "base64").toString(), claims);
  assert.equal(headers["set-cookie"], undefined);
});

test("a step-up in RFC 9470's form is handed on", async () => {
  const body = { error: "insufficient_user_authentication", acr_values: 'urn:mfa"\r\nx: y', max_age: 60 };
  world.identityProvider.faults.push({ status: 400, body });
  const { status, headers } = await fail();
  assert.equal(status, 401);
  const { error, max_age: maxAge } = parametersOf(headers["www-authenticate"]);
  assert.deepEqual({ error, maxAge }, { error: "insufficient_user_authentication", maxAge: "60" });
});

test("a policy that blocks is answered 403 without a challenge", async () => {
  const { status, headers } = await fail("blocked");
  assert.deepEqual([status, headers["www-authenticate"]], [403, undefined]);
});

test("a throttled user is answered 503 with Retry-After, never 401, and asked for once", async () => {
  assertRetryAfter(await fail("throttled"), 60);
  assert.equal(world.reached().tokenEndpoint, 1);
});

test("a throttled client is answered 503 with the identity provider's Retry-After", async () => {
  world.identityProvider.faults.push({ status: 429, headers: { "retry-after": "77" }, body: {} }, 2);
  assertRetryAfter(await fail(undefined, { gateway: "throttled" }), 77);
  const held = await fail(undefined, { gateway: "throttled" });
  assert.equal(held.status, 503);
  assert.ok(Number(held.headers["retry-after"]) <= 77);
  assert.equal(world.reached().tokenEndpoint, 1, "another user's request does not leave");
});

for (const fault of [503, 500, 502, 408, "reset"]) {
  test(`an identity provider that answers ${fault} twice is answered 503`, async () => {
    world.identityProvider.faults.push(fault, 2);
    assertRetryAfter(await fail(), 5);
    assert.equal(world.reached().tokenEndpoint, 2);
  });
}

for (const fault of ["html", "redirect", "huge", { status: 200, body: "{}" }, { status: 200, body: "null" }, { members: { token_type: "PoP" } }]) {
  test(`an identity provider that answers ${JSON.stringify(fault)} is answered 502`, async () => {
    world.identityProvider.faults.push(fault);
    assert.equal((await fail()).status, 502);
    assert.equal(world.identityProvider.faults.redirectsFollowed, 0);
  });
}

test("an exchange that hands the user's own token back is answered 502", async () => {
  const token = await world.mint({ subject: "mirrored" });
  world.identityProvider.faults.push({ members: { access_token: token } });
  assert.equal((await world.call({ token, body: "{}" })).status, 502);
  assert.equal(world.reached().upstream, 0);
});

for (const accessToken of ["a\r\nx-injected: 1", "a b", "", "tökén"]) {
  test(`an exchanged token that no header can carry is answered 502: ${JSON.stringify(accessToken)}`, async () => {
    world.identityProvider.faults.push({ members: { access_token: accessToken } });
    assert.equal((await fail()).status, 502);
  });
}

test("a wrong client secret is answered 500 and not 401", async () => {
  world.identityProvider.faults.push({ status: 401, body: { error: "invalid_client", error_codes: [7000215] } });
  const { status, headers } = await fail();
  assert.deepEqual([status, headers["www-authenticate"]], [500, undefined]);
});

test("an assertion that the identity provider refuses is answered 401 invalid_token", async () => {
  world.identityProvider.faults.push({ status: 400, body: { error: "invalid_grant", error_codes: [500133] } });
  const { status, headers } = await fail();
  assert.equal(status, 401);
  assert.equal(parametersOf(headers["www-authenticate"]).error, "invalid_token");
});

test("after a failure that may be over at once the same user gets through, after a remembered one another user does", async () => {
  const [token, other] = await Promise.all(["recovers", "is-another"].map((subject) => world.mint({ subject })));
  for (const fault of ["html", "redirect"]) {
    world.identityProvider.faults.push(fault);
    assert.notEqual((await world.call({ token, body: "{}" })).status, 200);
  }
  assert.equal((await world.call({ token, body: "{}" })).status, 200);
  const { tokenEndpoint } = world.reached();
  world.identityProvider.faults.push({ status: 400, body: { error: "invalid_client" } });
  const refused = await world.mint({ subject: "is-refused" });
  for (const again of [1, 2]) assert.equal((await world.call({ token: refused, body: "{}" })).status, 500, `${again}`);
  assert.equal((await world.call({ token: other, body: "{}" })).status, 200);
  assert.equal(world.reached().tokenEndpoint, tokenEndpoint + 2);
});

test("keys that cannot be fetched are 503 with Retry-After for good and forged tokens, never 401", async () => {
  world.identityProvider.faults.keys = 503;
  for (const options of [{}, { foreignKey: true }, {}]) {
    const answer = await world.call({ gateway: "cold", token: await world.mint(options) });
    assert.equal(answer.headers["cache-control"], "no-store");
    assertRetryAfter(answer, 5);
  }
  // A token that could not be one with any keys needs none.
  assert.equal((await world.call({ gateway: "cold", token: await world.mint({ header: { alg: "none" } }) })).status, 401);
  assert.deepEqual(world.reached(), { tokenEndpoint: 0, upstream: 0 });
  world.identityProvider.faults.keys = null;
  assert.equal((await world.call({ gateway: "fresh", token: await world.mint() })).status, 200);
});

test("keys that have been fetched once serve while the issuer is away", async () => {
  const token = await world.mint();
  assert.equal((await world.call({ token })).status, 200);
  world.identityProvider.faults.keys = 503;
  assert.equal((await world.call({ token })).status, 200);
});

[...Object.keys(uselessKeys), "redirect"].forEach((what, index) => {
  test(`a key set that is no use is 503, never 401: ${what}`, async () => {
    assertRetryAfter(await world.call({ path: `/mcp/keys-${index}`, token: await world.mint() }), 5);
    assert.deepEqual(world.reached(), { tokenEndpoint: 0, upstream: 0 });
  });
});

test("a key set that never comes is 503 within seconds", async () => {
  const startedAt = performance.now();
  assertRetryAfter(await world.call({ path: `/mcp/keys-${Object.keys(uselessKeys).length + 1}`, token: await world.mint() }), 5);
  assert.ok(performance.now() - startedAt < 8000);
});
