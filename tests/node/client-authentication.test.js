// How the client proves who it is: what each method sends, and what is never sent.
import assert from "node:assert/strict";
import { createHash, createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { test } from "node:test";
import { decodeJwt, importPKCS8, jwtVerify } from "jose";
import { TokenExchanger } from "obo-edge";
import { newCertificate, newKey } from "../servers/openssl.js";
import { clientId, exchangeAt, exchangerFor, failureUnsent, invalidResponse, localIssuer, misconfigured, optionsFor, outline, scope, unavailable } from "./local-issuer.js";
import { assertNothingShows, clientSecret, failureOf, printed, thrownBy, unsignedToken, until } from "./support.js";

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/** A JWT of another issuer, as a workload's platform gives it. */
const federatedJwt = `${Buffer.from('{"alg":"RS256"}').toString("base64url")}.e30.c2lnbmF0dXJl`;
const rsaKey = newKey("RSA");
const ecKey = newKey("EC");

const keyFor = (algorithm) => (algorithm === "ES256" ? ecKey : rsaKey);
const jwkOf = (pem) => createPrivateKey(pem).export({ format: "jwk" });
const privateKeyJwt = (overrides) => ({ method: "private_key_jwt", algorithm: "ES256", key: ecKey, ...overrides });

/** The parameters that a token request proves the client with, and its Authorization header. */
function proof({ form, headers }) {
  const names = ["client_id", "client_secret", "client_assertion_type", "client_assertion"];
  const parameters = names.filter((name) => form.has(name)).map((name) => [name, form.getAll(name).join()]);
  return { ...Object.fromEntries(parameters), ...(headers.authorization && { authorization: headers.authorization }) };
}

for (const [method, clientAuthentication, expected] of [
  ["client_secret_post", { clientSecret }, { client_id: clientId, client_secret: clientSecret }],
  ["client_secret_basic", { clientSecret }, { authorization: `Basic ${Buffer.from("gateway:hunter2%3A%2F%2B+%26%25").toString("base64")}` }],
  ["tls_client_auth", {}, { client_id: clientId }],
  ["none", {}, { client_id: clientId }],
  ["client_assertion", { clientAssertion: () => federatedJwt }, { client_id: clientId, client_assertion_type: assertionType, client_assertion: federatedJwt }],
]) {
  test(`${method} sends what its standard says and nothing else`, async (t) => {
    const issuer = await localIssuer(t);
    const exchanger = exchangerFor(issuer, { fetch: globalThis.fetch, clientAuthentication: { method, ...clientAuthentication } });
    const token = await exchangeAt(exchanger);
    assert.deepEqual(proof(issuer.tokenRequests[0]), expected);
    assertNothingShows([token, exchanger], [clientSecret, federatedJwt]);
  });
}

for (const algorithm of ["RS256", "PS256", "ES256"]) {
  for (const [form, keyOf] of [
    ["PEM", keyFor],
    ["PEM with lines around it", (name) => `Bag Attributes\r\n  friendlyName: gateway\r\n${keyFor(name).replaceAll("\n", "\r\n")}\r\n`],
    ["JWK", (name) => jwkOf(keyFor(name))],
    ["CryptoKey", (name) => importPKCS8(keyFor(name), name)],
  ]) {
    test(`a ${form} signs ${algorithm}: for this client, for the issuer, not for long`, async (t) => {
      const issuer = await localIssuer(t);
      const key = await keyOf(algorithm);
      const before = Math.floor(Date.now() / 1000);
      await exchangeAt(exchangerFor(issuer, { clientAuthentication: privateKeyJwt({ key, algorithm, kid: "key 1" }) }));

      const { client_assertion: jwt, ...rest } = proof(issuer.tokenRequests[0]);
      assert.deepEqual(rest, { client_id: clientId, client_assertion_type: assertionType });
      const { payload, protectedHeader } = await jwtVerify(jwt, createPublicKey(keyFor(algorithm)));
      assert.deepEqual(protectedHeader, { alg: algorithm, typ: "JWT", kid: "key 1" });
      assert.deepEqual(Object.keys(payload).sort(), ["aud", "exp", "iat", "iss", "jti", "nbf", "sub"]);
      assert.deepEqual([payload.iss, payload.sub, payload.aud], [clientId, clientId, issuer.issuer]);
      assert.ok(payload.jti.length >= 16);
      assert.ok(payload.iat >= before && payload.nbf === payload.iat);
      assert.ok(payload.exp > payload.iat && payload.exp - payload.iat <= 600);
    });
  }
}

test("a certificate is named by its SHA-256, and a kid only where there is one", async (t) => {
  const issuer = await localIssuer(t);
  const certificate = newCertificate({ key: ecKey });
  await exchangeAt(exchangerFor(issuer, { clientAuthentication: privateKeyJwt({ certificate }) }));
  const { protectedHeader } = await jwtVerify(proof(issuer.tokenRequests[0]).client_assertion, createPublicKey(ecKey));
  const thumbprint = createHash("sha256").update(new X509Certificate(certificate).raw).digest("base64url");
  assert.deepEqual(protectedHeader, { alg: "ES256", typ: "JWT", "x5t#S256": thumbprint });
});

for (const [grant, audienceOf] of [
  ["token-exchange", ({ issuer }) => issuer],
  ["jwt-bearer", ({ issuer }) => issuer],
  ["on-behalf-of", ({ tokenEndpoint }) => tokenEndpoint],
]) {
  test(`the audience of a client assertion is as the grant ${grant} has it`, async (t) => {
    const issuer = await localIssuer(t);
    await exchangeAt(exchangerFor(issuer, { grant, clientAuthentication: privateKeyJwt() }));
    assert.equal(decodeJwt(proof(issuer.tokenRequests[0]).client_assertion).aud, audienceOf(issuer));
  });
}

test("without an issuer the token endpoint is the audience", async (t) => {
  const issuer = await localIssuer(t);
  const { tokenEndpoint } = issuer;
  await exchangeAt(exchangerFor(issuer, { issuer: undefined, tokenEndpoint, clientAuthentication: privateKeyJwt() }));
  assert.equal(decodeJwt(proof(issuer.tokenRequests[0]).client_assertion).aud, tokenEndpoint);
});

for (const grant of ["token-exchange", "jwt-bearer"]) {
  test(`each token request of the grant ${grant} has a client assertion of its own, one after a 503 too`, async (t) => {
    const issuer = await localIssuer(t, { token: (_request, count) => (count === 1 ? 503 : undefined) });
    const exchanger = exchangerFor(issuer, { grant, clientAuthentication: privateKeyJwt() });
    await exchangeAt(exchanger);
    await exchangeAt(exchanger);
    const jtis = issuer.tokenRequests.map((request) => decodeJwt(proof(request).client_assertion).jti);
    assert.equal(jtis.length, 3);
    assert.equal(new Set(jtis).size, 3);
  });
}

test("two exchangers at once sign with their own keys for their own issuers", async (t) => {
  const [one, other] = [await localIssuer(t), await localIssuer(t)];
  const keys = new Map([[one, ecKey], [other, newKey("EC")]]);
  await Promise.all([...keys].map(([issuer, key]) => exchangeAt(exchangerFor(issuer, { clientAuthentication: privateKeyJwt({ key }) }))));
  for (const [issuer, key] of keys) {
    assert.equal(issuer.tokenRequests.length, 1);
    const jwt = proof(issuer.tokenRequests[0]).client_assertion;
    await jwtVerify(jwt, createPublicKey(key), { audience: issuer.issuer });
  }
});

test("a JWK that is changed after construction goes on signing as it was", async (t) => {
  const issuer = await localIssuer(t);
  const key = jwkOf(ecKey);
  const exchanger = exchangerFor(issuer, { clientAuthentication: privateKeyJwt({ key }) });
  Object.assign(key, jwkOf(newKey("EC")));
  await exchangeAt(exchanger);
  await jwtVerify(proof(issuer.tokenRequests[0]).client_assertion, createPublicKey(ecKey));
});

test("a callback is asked anew for each token request, a retry included", async (t) => {
  const issuer = await localIssuer(t, { token: (_request, count) => (count === 1 ? 503 : undefined) });
  let count = 0;
  const clientAssertion = async () => `${federatedJwt}${(count += 1)}`;
  const exchanger = exchangerFor(issuer, { clientAuthentication: { method: "client_assertion", clientAssertion } });
  const assertion = unsignedToken();
  await exchanger.exchange({ assertion, scopes: scope });
  await exchanger.exchange({ assertion, scopes: scope });
  await exchangeAt(exchanger);
  const sent = issuer.tokenRequests.map((request) => proof(request).client_assertion);
  assert.deepEqual(sent, [1, 2, 3].map((number) => `${federatedJwt}${number}`), "a hit asks for none");
});

const field = "clientAuthentication.clientAssertion";
for (const [what, clientAssertion, expected] of [
  ["throws", () => { throw new Error("hunter2"); }, unavailable(field)],
  ["rejects", async () => { throw new Error("hunter2"); }, unavailable(field)],
  ["rejects with nothing", () => Promise.reject(), unavailable(field)],
  ["hangs", () => new Promise(() => {}), unavailable(field)],
  ["gives nothing", () => undefined, misconfigured(field)],
  ["gives an object", async () => ({ token: federatedJwt }), misconfigured(field)],
  ["gives an empty text", async () => "", misconfigured(field)],
  ["gives what is no JWT", () => "hunter2", misconfigured(field)],
  ["gives a JWT and more parameters", () => `${federatedJwt}&client_id=hunter2`, misconfigured(field)],
  ["gives a JWT without a signature", () => "e30.e30.", misconfigured(field)],
  ["gives more than any JWT has", () => federatedJwt + "a".repeat(20_000), misconfigured(field)],
]) {
  test(`a callback that ${what} is ${expected.reason}, nothing is sent, and the next exchange asks again`, async (t) => {
    const issuer = await localIssuer(t);
    let isBroken = true;
    const clientAuthentication = { method: "client_assertion", clientAssertion: () => (isBroken ? clientAssertion() : federatedJwt) };
    const exchanger = exchangerFor(issuer, { timeoutMs: 1000, clientAuthentication });
    const error = await failureUnsent(issuer, exchanger, { secrets: ["hunter2"] });
    assert.deepEqual(outline(error), expected);

    isBroken = false;
    assert.equal((await exchangeAt(exchanger)).source, "issuer");
  });
}

test("a callback that hangs for one exchanger holds up no other", async (t) => {
  const issuer = await localIssuer(t);
  let release;
  const hanging = { method: "client_assertion", clientAssertion: () => new Promise((resolve) => (release = resolve)) };
  const held = exchangeAt(exchangerFor(issuer, { clientAuthentication: hanging }));
  assert.equal((await exchangeAt(exchangerFor(issuer))).source, "issuer");
  assert.equal(issuer.tokenRequests.length, 1);
  await until(() => release);
  release(federatedJwt);
  assert.equal((await held).source, "issuer");
});

test("a callback is called as a plain function, without arguments", async (t) => {
  const issuer = await localIssuer(t);
  let seen;
  const clientAuthentication = {
    method: "client_assertion",
    clientAssertion(...args) {
      seen = { self: this, args };
      return federatedJwt;
    },
  };
  await exchangeAt(exchangerFor(issuer, { clientAuthentication }));
  assert.deepEqual(seen, { self: undefined, args: [] });
});

test("a client with a certificate goes to the alias that the metadata has for it, and any other does not", async (t) => {
  const [issuer, alias] = [await localIssuer(t), await localIssuer(t)];
  issuer.document.mtls_endpoint_aliases = { token_endpoint: alias.tokenEndpoint };
  await exchangeAt(exchangerFor(issuer, { fetch: globalThis.fetch, clientAuthentication: { method: "tls_client_auth" } }));
  assert.deepEqual([issuer.tokenRequests.length, alias.tokenRequests.length], [0, 1]);
  await exchangeAt(exchangerFor(issuer));
  assert.deepEqual([issuer.tokenRequests.length, alias.tokenRequests.length], [1, 1]);
});

for (const [what, clientAuthentication, name] of [
  ["tls_client_auth without a fetch that has the certificate", { method: "tls_client_auth" }, "method"],
  ["client_assertion without a callback", { method: "client_assertion" }, "clientAssertion"],
  ["client_assertion with a text", { method: "client_assertion", clientAssertion: federatedJwt }, "clientAssertion"],
  ["client_assertion with true", { method: "client_assertion", clientAssertion: true }, "clientAssertion"],
  ["none with a secret", { method: "none", clientSecret }, "clientSecret"],
  ["client_secret_post with a key", { method: "client_secret_post", clientSecret, key: ecKey }, "key"],
  ["an unknown method", { method: "client_secret_jwt", clientSecret }, "method"],
]) {
  test(`${what} is refused at construction`, () => {
    const options = optionsFor({ issuer: "https://login.example" }, { clientAuthentication });
    const error = thrownBy(() => new TokenExchanger(options));
    assert.deepEqual(outline(error), misconfigured(`clientAuthentication.${name}`));
    assertNothingShows([error], [clientSecret, federatedJwt, ecKey]);
  });
}

test("a redirect of the token endpoint is followed with no client authentication", async (t) => {
  for (const clientAuthentication of [privateKeyJwt(), { method: "client_secret_post", clientSecret }, { method: "none" }]) {
    const issuer = await localIssuer(t, { token: () => ({ status: 307, headers: { location: "/elsewhere" } }) });
    const error = await failureOf(exchangeAt(exchangerFor(issuer, { clientAuthentication })));
    assert.deepEqual(outline(error), invalidResponse("tokenEndpoint"));
    assert.deepEqual(issuer.requests.map(({ path }) => path).slice(1), ["/token"]);
  }
});

test("neither key nor client assertion shows in an error, an event or the exchanger itself", async (t) => {
  const issuer = await localIssuer(t, { token: ({ form }) => ({ status: 401, body: { error: "invalid_client", error_description: form.get("client_assertion") } }) });
  const events = [];
  const jwk = jwkOf(ecKey);
  const exchanger = exchangerFor(issuer, { onEvent: (event) => events.push(event), clientAuthentication: privateKeyJwt({ key: jwk }) });
  const error = await failureOf(exchangeAt(exchanger));
  assert.equal(error.error, "invalid_client");
  assertNothingShows([error, ...events, exchanger], [jwk.d, proof(issuer.tokenRequests[0]).client_assertion]);
  assert.ok(printed(error).includes("invalid_client"), "what is printed is looked at");
});
