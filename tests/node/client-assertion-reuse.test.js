// Entra's flow uses one client assertion until shortly before its end, and one fresh one where it is refused.
import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { test } from "node:test";
import { decodeJwt, jwtVerify } from "jose";
import { errorAnswer } from "../servers/authorization-server.js";
import { newCertificate, newKey } from "../servers/openssl.js";
import { exchangeAt, exchangerFor, localIssuer, misconfigured, outline } from "./local-issuer.js";
import { failureOf } from "./support.js";

const minute = 60_000;
const key = newKey("RSA");
const clientAuthentication = { method: "private_key_jwt", algorithm: "PS256", key, certificate: newCertificate({ key }) };

/** Codes that a fresh client assertion may heal: of a rotated key, of a clock that was wrong. */
const healable = [700027, 700024, 7000214, 1000502, 7000274, 7000277];
/** Codes of what stays wrong: the secret, the client's id. */
const lasting = [7000215, 700016];

function refusal(...codes) {
  return errorAnswer("invalid_client", { error_codes: codes }, 401);
}

function entraExchanger(issuer, overrides) {
  return exchangerFor(issuer, { grant: "on-behalf-of", clientAuthentication, ...overrides });
}

const sentTo = (issuer) => issuer.tokenRequests.map(({ form }) => form.get("client_assertion"));

/** An issuer that refuses the second token request, and an exchanger that has made its first. */
async function refusedSecond(t, answer, overrides) {
  const issuer = await localIssuer(t, { token: (_request, count) => (count === 2 ? answer : undefined) });
  const exchanger = entraExchanger(issuer, overrides);
  await exchangeAt(exchanger);
  return { issuer, exchanger };
}

test("one client assertion serves the exchanges of several users, one after the other and at once", async (t) => {
  const issuer = await localIssuer(t);
  const exchanger = entraExchanger(issuer);
  await exchangeAt(exchanger);
  await Promise.all([exchangeAt(exchanger), exchangeAt(exchanger)]);
  const sent = sentTo(issuer);
  assert.equal(sent.length, 3);
  assert.equal(new Set(sent).size, 1);
  await jwtVerify(sent[0], createPublicKey(key), { audience: issuer.tokenEndpoint, subject: "gateway" });
});

test("a retry after a 503 carries the same client assertion", async (t) => {
  const issuer = await localIssuer(t, { token: (_request, count) => (count === 1 ? 503 : undefined) });
  await exchangeAt(entraExchanger(issuer));
  const [first, second] = sentTo(issuer);
  assert.equal(first, second);
});

test("two exchangers share no client assertion", async (t) => {
  const issuer = await localIssuer(t);
  await exchangeAt(entraExchanger(issuer));
  await exchangeAt(entraExchanger(issuer));
  assert.equal(new Set(sentTo(issuer)).size, 2);
});

test("it is used until shortly before its end, and then another is made", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const issuer = await localIssuer(t);
  const exchanger = entraExchanger(issuer);
  await exchangeAt(exchanger);
  const { exp } = decodeJwt(sentTo(issuer)[0]);
  t.mock.timers.setTime((exp - 90) * 1000);
  await exchangeAt(exchanger);
  t.mock.timers.setTime((exp - 30) * 1000);
  await exchangeAt(exchanger);
  const [first, second, third] = sentTo(issuer);
  assert.equal(first, second);
  assert.notEqual(second, third);
  assert.ok(decodeJwt(third).exp > exp);
});

test("a clock that went back makes another, for the old one would be one of the future", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const issuer = await localIssuer(t);
  const exchanger = entraExchanger(issuer);
  await exchangeAt(exchanger);
  t.mock.timers.setTime(Date.now() - 10 * minute);
  await exchangeAt(exchanger);
  const [first, second] = sentTo(issuer).map((jwt) => decodeJwt(jwt));
  assert.ok(second.nbf < first.nbf);
});

for (const code of healable) {
  test(`one that is refused with ${code} is dropped, and a fresh one gets the token`, async (t) => {
    const { issuer, exchanger } = await refusedSecond(t, refusal(code));
    assert.equal((await exchangeAt(exchanger)).source, "issuer");
    await exchangeAt(exchanger);
    const [first, second, third, fourth] = sentTo(issuer);
    assert.equal(first, second);
    assert.notEqual(decodeJwt(third).jti, decodeJwt(second).jti);
    assert.equal(fourth, third, "the fresh one is used from then on");
  });
}

test("the fresh one is no attempt of the configured ones", async (t) => {
  const { issuer, exchanger } = await refusedSecond(t, refusal(700024), { retry: { attempts: 1 } });
  assert.equal((await exchangeAt(exchanger)).source, "issuer");
  assert.equal(issuer.tokenRequests.length, 3);
});

for (const codes of [...lasting.map((code) => [code]), [700027, 7000215], [7000222], []]) {
  test(`one that is refused with ${codes.join() || "no code"} is not made anew`, async (t) => {
    const { issuer, exchanger } = await refusedSecond(t, refusal(...codes));
    const error = await failureOf(exchangeAt(exchanger));
    assert.deepEqual(outline(error), misconfigured(undefined));
    assert.deepEqual(error.errorCodes ?? [], codes);
    assert.equal(issuer.tokenRequests.length, 2);
    await exchangeAt(exchanger);
    assert.equal(new Set(sentTo(issuer)).size, 1);
  });
}

test("the codes count with invalid_client only", async (t) => {
  const { issuer, exchanger } = await refusedSecond(t, errorAnswer("invalid_request", { error_codes: [700027] }));
  await failureOf(exchangeAt(exchanger));
  assert.equal(issuer.tokenRequests.length, 2);
});

test("a fresh one is tried once: a key that is not registered is misconfigured after two requests", async (t) => {
  const issuer = await localIssuer(t, { token: (_request, count) => (count === 1 ? undefined : refusal(700027)) });
  const exchanger = entraExchanger(issuer);
  await exchangeAt(exchanger);
  const error = await failureOf(exchangeAt(exchanger));
  assert.deepEqual(outline(error), misconfigured(undefined));
  assert.deepEqual(error.errorCodes, [700027]);
  assert.equal(issuer.tokenRequests.length, 3);
  assert.equal(new Set(sentTo(issuer)).size, 2);
});

test("one that was made for this very request and refused is not made again", async (t) => {
  const issuer = await localIssuer(t, { token: () => refusal(700027) });
  assert.deepEqual(outline(await failureOf(exchangeAt(entraExchanger(issuer)))), misconfigured(undefined));
  assert.equal(issuer.tokenRequests.length, 1);
});

test("other grants make one for each request, and a refusal with these codes is final", async (t) => {
  const issuer = await localIssuer(t, { token: (_request, count) => (count === 2 ? refusal(700027) : undefined) });
  const exchanger = exchangerFor(issuer, { clientAuthentication });
  await exchangeAt(exchanger);
  assert.deepEqual(outline(await failureOf(exchangeAt(exchanger))), misconfigured(undefined));
  assert.equal(issuer.tokenRequests.length, 2);
});

test("a callback is asked for each request of Entra's flow too, and once more where what it gave is refused", async (t) => {
  const issuer = await localIssuer(t, { token: (_request, count) => (count === 2 ? refusal(700024) : undefined) });
  let count = 0;
  const clientAssertion = () => `e30.e30.number${(count += 1)}`;
  const exchanger = entraExchanger(issuer, { clientAuthentication: { method: "client_assertion", clientAssertion } });
  await exchangeAt(exchanger);
  await exchangeAt(exchanger);
  assert.deepEqual(sentTo(issuer), [1, 2, 3].map((number) => `e30.e30.number${number}`));
});
