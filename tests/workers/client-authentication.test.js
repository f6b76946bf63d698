/** Keys and callbacks of the client in real workerd, where what one request made another one uses. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { exportJWK, exportPKCS8, generateKeyPair, jwtVerify } from "jose";
import { requestOf, startWorld } from "./fixtures/world.js";

const issuer = "https://login.example/tenant";

let world;
before(async () => (world = await startWorld()));
after(() => world.close());
beforeEach(() => world.partner.reset());

/** The claims of each client assertion that arrived, verified. */
async function arrived(publicKey, algorithm) {
  const verified = world.partner.tokenRequests.map(({ parameters }) =>
    jwtVerify(parameters.client_assertion, publicKey, { algorithms: [algorithm], issuer: "client", subject: "client", audience: issuer }),
  );
  return (await Promise.all(verified)).map(({ payload }) => payload);
}

for (const algorithm of ["RS256", "PS256", "ES256"]) {
  for (const [form, exported] of [["PEM", exportPKCS8], ["JWK", exportJWK]]) {
    test(`a key as ${form} signs ${algorithm}: anew for each user, each request and each retry`, async () => {
      const { privateKey, publicKey } = await generateKeyPair(algorithm, { extractable: true });
      const clientAuthentication = { method: "private_key_jwt", key: await exported(privateKey), algorithm, kid: "k1" };
      const exchanger = world.exchanger({ options: { grant: "jwt-bearer", issuer, clientAuthentication } });
      world.partner.answers.push(503);
      assert.equal((await exchanger.exchange({ request: requestOf("ada") })).token.source, "issuer");
      const users = Array.from({ length: 10 }, (_, number) => `user${number}`);
      const outcomes = await Promise.all(users.map((user) => exchanger.exchange({ request: requestOf(user) })));
      assert.ok(outcomes.every(({ token }) => token?.source === "issuer"), JSON.stringify(outcomes));
      const claims = await arrived(publicKey, algorithm);
      assert.equal(claims.length, 12);
      assert.equal(new Set(claims.map(({ jti }) => jti)).size, 12);
    });
  }
}

test("a key outlives the wasm instance that asked it to sign", async () => {
  const { privateKey, publicKey } = await generateKeyPair("ES256", { extractable: true });
  const clientAuthentication = { method: "private_key_jwt", key: await exportJWK(privateKey), algorithm: "ES256" };
  const exchanger = world.exchanger({ options: { grant: "jwt-bearer", issuer, clientAuthentication } });
  await exchanger.exchange({ request: requestOf("ada") });
  await world.breakInstance();
  assert.equal((await exchanger.exchange({ request: requestOf("bob") })).token.source, "issuer");
  assert.equal((await arrived(publicKey, "ES256")).length, 2);
});

test("a key that is damaged is misconfigured, and nothing is sent", async () => {
  const { privateKey } = await generateKeyPair("ES256", { extractable: true });
  const key = { ...(await exportJWK(privateKey)), x: "AAAA" };
  const clientAuthentication = { method: "private_key_jwt", key, algorithm: "ES256" };
  const exchanger = world.exchanger({ options: { grant: "jwt-bearer", issuer, clientAuthentication } });
  const { error } = await exchanger.exchange({ request: requestOf("ada") });
  assert.deepEqual([error.reason, error.field], ["misconfigured", "clientAuthentication.key"]);
  assert.equal(world.partner.tokenRequests.length, 0);
});

test("a callback may fetch, is asked for each token request, and serves callers that share", async () => {
  const exchanger = world.exchanger({ clientAssertion: "fetches" });
  const outcomes = await Promise.all(["ada", "ada", "ada", "bob"].map((user) => exchanger.exchange({ request: requestOf(user) })));
  assert.ok(outcomes.every(({ token }) => token), JSON.stringify(outcomes));
  assert.equal(world.partner.tokenRequests.length, 2);
  for (const { parameters } of world.partner.tokenRequests) {
    assert.equal(Buffer.from(parameters.client_assertion.split(".")[1], "base64url").toString(), "you asked for /echo/federated");
    assert.equal(parameters.client_secret, undefined);
  }
});

for (const [clientAssertion, reason] of [
  ["throws", "unavailable"],
  ["rejects", "unavailable"],
  ["neverAnswers", "unavailable"],
  ["answersNoise", "misconfigured"],
]) {
  test(`a callback that ${clientAssertion} is ${reason}, by its name, and nothing is sent`, async () => {
    const exchanger = world.exchanger({ clientAssertion, options: { timeoutMs: 1000, retry: { delayMs: 0 } } });
    const { error } = await exchanger.exchange({ request: requestOf("ada") });
    assert.deepEqual([error.reason, error.field], [reason, "clientAuthentication.clientAssertion"]);
    assert.ok(!JSON.stringify(error).includes("hunter2"));
    assert.equal(world.partner.tokenRequests.length, 0);
    assert.equal((await exchanger.stats()).flights, 0);
  });
}
