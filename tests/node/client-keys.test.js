// Keys and certificates that cannot prove the client: each is named, before anything is sent.
import assert from "node:assert/strict";
import { createPrivateKey, webcrypto } from "node:crypto";
import { before, test } from "node:test";
import { importPKCS8 } from "jose";
import { TokenExchanger } from "obo-edge";
import { encrypted, expired, future, newCertificate, newKey, publicHalf, traditional } from "../servers/openssl.js";
import { exchangeAt, exchangerFor, failureUnsent, localIssuer, misconfigured, optionsFor, outline } from "./local-issuer.js";
import { assertNothingShows, thrownBy } from "./support.js";

const rsaKey = newKey("RSA");
const ecKey = newKey("EC");
const secpKey = newKey("EC", "P-384");
const pssKey = newKey("RSA-PSS");
const shortKey = newKey("RSA", "1024");

const jwkOf = (pem) => createPrivateKey(pem).export({ format: "jwk" });
const ecJwk = jwkOf(ecKey);
const rsaJwk = jwkOf(rsaKey);
const { d: _, ...publicEcJwk } = ecJwk;
/** Text of the key that no message may quote: the middle of its base64. */
const marksOf = (key) => (typeof key === "string" && key.length > 80 ? [key.split("\n")[1]] : typeof key?.d === "string" ? [key.d] : []);

const privateKeyJwt = (overrides) => ({ method: "private_key_jwt", algorithm: "RS256", key: rsaKey, ...overrides });

for (const [what, overrides, name] of [
  ["an encrypted PEM", { key: encrypted(rsaKey) }, "key"],
  ["an encrypted EC key in PEM", { algorithm: "ES256", key: encrypted(ecKey) }, "key"],
  ["a key of PKCS #1", { key: traditional(rsaKey) }, "key"],
  ["a key of SEC 1", { algorithm: "ES256", key: traditional(ecKey) }, "key"],
  ["a public key in PEM", { key: publicHalf(rsaKey) }, "key"],
  ["a certificate as key", { key: newCertificate({ key: rsaKey }) }, "key"],
  ["a PEM that is cut off", { key: rsaKey.slice(0, 400) }, "key"],
  ["base64 without its lines", { key: rsaKey.replace(/-----.*-----\n/g, "") }, "key"],
  ["an empty text as key", { key: "" }, "key"],
  ["no key", { key: undefined }, "key"],
  ["a number as key", { key: 7 }, "key"],
  ["true as key", { key: true }, "key"],
  ["a list as key", { key: [rsaKey] }, "key"],
  ["bytes as key", { key: new Uint8Array(32) }, "key"],
  ["a function as key", { key: () => rsaKey }, "key"],
  ["an EC key in PEM for RS256", { key: ecKey }, "key"],
  ["an EC key in PEM for PS256", { algorithm: "PS256", key: ecKey }, "key"],
  ["an RSA key in PEM for ES256", { algorithm: "ES256", key: rsaKey }, "key"],
  ["an EC key of another curve in PEM", { algorithm: "ES256", key: secpKey }, "key"],
  ["a key for PSS only in PEM for RS256", { key: pssKey }, "key"],
  ["an EC JWK for RS256", { key: ecJwk }, "key"],
  ["an RSA JWK for ES256", { algorithm: "ES256", key: rsaJwk }, "key"],
  ["an EC JWK of another curve", { algorithm: "ES256", key: jwkOf(secpKey) }, "key"],
  ["a public JWK", { algorithm: "ES256", key: publicEcJwk }, "key"],
  ["a public RSA JWK", { key: { kty: "RSA", n: rsaJwk.n, e: rsaJwk.e } }, "key"],
  ["a JWK of shared bytes", { key: { kty: "oct", k: "hunter2" } }, "key"],
  ["a JWK of nothing", { key: {} }, "key"],
  ["a JWK set", { algorithm: "ES256", key: { keys: [ecJwk] } }, "key"],
  ["an algorithm of shared secrets", { algorithm: "HS256" }, "algorithm"],
  ["no signature at all", { algorithm: "none" }, "algorithm"],
  ["an algorithm in another case", { algorithm: "rs256" }, "algorithm"],
  ["no algorithm", { algorithm: undefined }, "algorithm"],
  ["a list of algorithms", { algorithm: ["RS256"] }, "algorithm"],
  ["an empty kid", { kid: "" }, "kid"],
  ["a number as kid", { kid: 7 }, "kid"],
  ["a certificate that is a key", { certificate: rsaKey }, "certificate"],
  ["a certificate that is cut off", { certificate: newCertificate({ key: rsaKey }).slice(0, 200) }, "certificate"],
  ["a certificate that is no text", { certificate: {} }, "certificate"],
  ["a passphrase", { passphrase: "hunter2" }, "passphrase"],
  ["a secret beside the key", { clientSecret: "hunter2" }, "clientSecret"],
]) {
  test(`${what} is refused at construction`, () => {
    const options = optionsFor({ issuer: "https://login.example" }, { clientAuthentication: privateKeyJwt(overrides) });
    const error = thrownBy(() => new TokenExchanger(options));
    assert.deepEqual(outline(error), misconfigured(`clientAuthentication.${name}`));
    assertNothingShows([error], ["hunter2", ...marksOf(overrides.key), ...marksOf(overrides.certificate)]);
  });
}

test("an encrypted key and one of before PKCS #8 are told what to do about it", () => {
  const messageOf = (key) => {
    const options = optionsFor({ issuer: "https://login.example" }, { clientAuthentication: privateKeyJwt({ key }) });
    return thrownBy(() => new TokenExchanger(options)).message;
  };
  assert.match(messageOf(encrypted(rsaKey)), /is encrypted.*openssl pkcs8/);
  assert.match(messageOf(traditional(rsaKey)), /PKCS #8.*openssl pkcs8/);
});

/** What only signing shows; made in `before`, for some of it is made asynchronously. */
const unable = new Map();

before(async () => {
  const cryptoKey = (pem, algorithm) => importPKCS8(pem, algorithm);
  const { subtle } = webcrypto;
  const ecdsa = { name: "ECDSA", namedCurve: "P-256" };
  const pair = await subtle.generateKey(ecdsa, false, ["sign", "verify"]);
  const agreement = await subtle.generateKey({ name: "ECDH", namedCurve: "P-256" }, false, ["deriveBits"]);
  unable.set("an EC CryptoKey for RS256", { key: pair.privateKey });
  unable.set("an RSA CryptoKey for ES256", { algorithm: "ES256", key: await cryptoKey(rsaKey, "RS256") });
  unable.set("an RSA CryptoKey for the other padding", { algorithm: "PS256", key: await cryptoKey(rsaKey, "RS256") });
  unable.set("an EC CryptoKey of another curve", { algorithm: "ES256", key: await cryptoKey(secpKey, "ES384") });
  unable.set("a public CryptoKey", { algorithm: "ES256", key: pair.publicKey });
  unable.set("a CryptoKey that may agree on keys only", { algorithm: "ES256", key: agreement.privateKey });
  unable.set("an HMAC CryptoKey", { key: await subtle.generateKey({ name: "HMAC", hash: "SHA-256" }, false, ["sign"]) });
  unable.set("an RSA key too short in PEM", { key: shortKey });
  unable.set("an RSA key too short as a JWK", { key: jwkOf(shortKey) });
  unable.set("a damaged PEM", { key: damaged(rsaKey) });
  unable.set("a damaged JWK", { algorithm: "ES256", key: { ...ecJwk, x: "hunter2" } });
  unable.set("an RSA JWK without its primes", { key: { kty: "RSA", n: rsaJwk.n, e: rsaJwk.e, d: rsaJwk.d } });
  unable.set("a JWK that may not sign", { algorithm: "ES256", key: { ...ecJwk, key_ops: ["verify"] } });
});

/** The key with its numbers cut off behind what names its kind. */
function damaged(pem) {
  const der = Buffer.from(pem.replace(/-----.*-----/g, ""), "base64").subarray(0, 200);
  return `-----BEGIN PRIVATE KEY-----\n${der.toString("base64")}\n-----END PRIVATE KEY-----\n`;
}

for (const what of [
  "an EC CryptoKey for RS256",
  "an RSA CryptoKey for ES256",
  "an RSA CryptoKey for the other padding",
  "an EC CryptoKey of another curve",
  "a public CryptoKey",
  "a CryptoKey that may agree on keys only",
  "an HMAC CryptoKey",
  "an RSA key too short in PEM",
  "an RSA key too short as a JWK",
  "a damaged PEM",
  "a damaged JWK",
  "an RSA JWK without its primes",
  "a JWK that may not sign",
]) {
  test(`${what} cannot sign: the exchange says so and sends nothing, each time`, async (t) => {
    const issuer = await localIssuer(t);
    const overrides = unable.get(what);
    const exchanger = exchangerFor(issuer, { clientAuthentication: privateKeyJwt(overrides) });
    for (let count = 0; count < 2; count += 1) {
      const error = await failureUnsent(issuer, exchanger, { secrets: ["hunter2", ...marksOf(overrides.key)] });
      assert.deepEqual(outline(error), misconfigured("clientAuthentication.key"));
    }
  });
}

for (const [what, validity] of [["has expired", expired], ["is not valid yet", future]]) {
  test(`a certificate that ${what} is refused by the exchange, which sends nothing`, async (t) => {
    const issuer = await localIssuer(t);
    const certificate = newCertificate({ key: rsaKey, validity });
    const exchanger = exchangerFor(issuer, { clientAuthentication: privateKeyJwt({ certificate }) });
    const error = await failureUnsent(issuer, exchanger);
    assert.deepEqual(outline(error), misconfigured("clientAuthentication.certificate"));
    assert.match(error.message, new RegExp(what));
  });
}

test("a certificate serves until its end, even in an exchanger that is older", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const issuer = await localIssuer(t);
  const year = new Date().getUTCFullYear() + 1;
  const certificate = newCertificate({ key: rsaKey, validity: { from: "20200101000000Z", until: `${year}0101000000Z` } });
  const exchanger = exchangerFor(issuer, { clientAuthentication: privateKeyJwt({ certificate }) });
  const lastSecond = Date.UTC(year, 0, 1) - 1000;
  t.mock.timers.setTime(lastSecond);
  assert.equal((await exchangeAt(exchanger)).source, "issuer");
  t.mock.timers.setTime(lastSecond + 2000);
  assert.deepEqual(outline(await failureUnsent(issuer, exchanger)), misconfigured("clientAuthentication.certificate"));
});

test("one exchanger's bad key is no other's", async (t) => {
  const issuer = await localIssuer(t);
  const bad = exchangerFor(issuer, { clientAuthentication: privateKeyJwt({ key: shortKey }) });
  const good = exchangerFor(issuer, { clientAuthentication: privateKeyJwt() });
  const [error, token] = await Promise.allSettled([exchangeAt(bad), exchangeAt(good)]);
  assert.deepEqual(outline(error.reason), misconfigured("clientAuthentication.key"));
  assert.equal(token.value.source, "issuer");
  assert.equal(issuer.tokenRequests.length, 1);
});
