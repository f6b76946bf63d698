/** The package against npm `oidc-provider`: token exchange by discovery with every client authentication. */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, beforeEach, test } from "node:test";
import { SignJWT, createRemoteJWKSet, importPKCS8, jwtVerify } from "jose";
import { TokenExchanger } from "obo-edge";
import { failureOf } from "../node/support.js";
import { certificateFetch } from "./certificate-fetch.js";
import { clientSecret, files, startOidcProvider } from "./oidc-provider.js";

const { resource } = files;
const scope = "files.read";
let provider;
let keySet;

before(async () => {
  provider = await startOidcProvider();
  keySet = createRemoteJWKSet(new URL(provider.jwksUri));
});
after(() => provider?.close());
beforeEach(() => {
  provider.faults.length = 0;
  provider.tokenRequests.length = 0;
});

/** An exchanger that knows the provider by its issuer alone, and shows the certificate of `identity`. */
function exchangerFor(clientId, clientAuthentication, identity) {
  const { issuer } = provider;
  const fetch = identity && certificateFetch(identity);
  return new TokenExchanger({ issuer, clientId, clientAuthentication, grant: "token-exchange", retry: { delayMs: 20 }, fetch });
}

const privateKeyJwt = (algorithm) => ({ method: "private_key_jwt", algorithm, key: provider.keys[algorithm] });

/** A client assertion of a workload's own making. */
async function federatedJwt(overrides) {
  const claims = { iss: "federated", sub: "federated", aud: provider.issuer, jti: randomUUID(), ...overrides };
  const key = await importPKCS8(provider.keys.federated, "ES256");
  return new SignJWT(claims).setProtectedHeader({ alg: "ES256" }).setIssuedAt().setExpirationTime("2m").sign(key);
}

/** Exchanges a token of `subject`; the provider's own keys must have signed what comes back. */
async function exchangeVerified(exchanger, subject, clientId) {
  const assertion = await provider.mintUserToken({ subject });
  const token = await exchanger.exchange({ assertion, scopes: scope, resource });
  const { payload } = await jwtVerify(token.accessToken, keySet, { issuer: provider.issuer, audience: resource });
  assert.deepEqual([payload.sub, payload.scope, payload.client_id], [subject, scope, clientId]);
  assert.deepEqual(
    [token.tokenType, token.scope, token.issuedTokenType, token.source],
    ["Bearer", scope, "urn:ietf:params:oauth:token-type:access_token", "issuer"],
  );
}

for (const [clientId, method, authenticationOf, identityOf] of [
  ["client_secret_basic", "client_secret_basic", () => ({ method: "client_secret_basic", clientSecret })],
  ["client_secret_post", "client_secret_post", () => ({ method: "client_secret_post", clientSecret })],
  ["RS256", "private_key_jwt", () => privateKeyJwt("RS256")],
  ["PS256", "private_key_jwt", () => privateKeyJwt("PS256")],
  ["ES256", "private_key_jwt", () => privateKeyJwt("ES256")],
  ["federated", "private_key_jwt", () => ({ method: "client_assertion", clientAssertion: federatedJwt })],
  ["tls_client_auth", "tls_client_auth", () => ({ method: "tls_client_auth" }), () => provider.newTlsIdentity()],
  ["none", "none", () => ({ method: "none" })],
]) {
  const isByAssertion = method === "private_key_jwt";
  const isTls = method === "tls_client_auth";

  test(`the client ${clientId} exchanges several users' tokens, and uses no client assertion twice`, async () => {
    const exchanger = exchangerFor(clientId, authenticationOf(), identityOf?.());
    for (const subject of ["ada", "grace"]) await exchangeVerified(exchanger, subject, clientId);
    assert.deepEqual(
      provider.tokenRequests.map((request) => [request.method, request.isTls, request.status]),
      [[method, isTls, 200], [method, isTls, 200]],
    );
    const jtis = new Set(provider.tokenRequests.map(({ jti }) => jti));
    assert.equal(jtis.size, isByAssertion ? 2 : 1);
    assert.equal(jtis.has(undefined), !isByAssertion);
  });

  test(`the client ${clientId} is tried again after a 503, with another client assertion where it has one`, async () => {
    provider.faults.push(503);
    await exchangeVerified(exchangerFor(clientId, authenticationOf(), identityOf?.()), "ada", clientId);
    assert.deepEqual(provider.tokenRequests.map(({ status }) => status), [503, 200]);
    const [first, second] = provider.tokenRequests;
    assert.equal(first.jti !== undefined, isByAssertion);
    assert.equal(first.jti !== second.jti, isByAssertion);
  });
}

test("a client assertion that the provider has seen is refused by it, so a fresh one each time is what it wants", async () => {
  await exchangeVerified(exchangerFor("ES256", privateKeyJwt("ES256")), "ada", "ES256");
  const [{ form }] = provider.tokenRequests;
  const replayed = await fetch(provider.tokenEndpoint, { method: "POST", body: form });
  assert.deepEqual([replayed.status, (await replayed.json()).error], [401, "invalid_client"]);

  const kept = await federatedJwt();
  const exchanger = exchangerFor("federated", { method: "client_assertion", clientAssertion: () => kept });
  await exchangeVerified(exchanger, "ada", "federated");
  const assertion = await provider.mintUserToken();
  const error = await failureOf(exchanger.exchange({ assertion, scopes: scope, resource }));
  assert.deepEqual([error.reason, error.error, error.status], ["misconfigured", "invalid_client", 401]);
});

for (const [what, clientId, authenticationOf, identityOf] of [
  ["a wrong secret", "client_secret_basic", () => ({ method: "client_secret_basic", clientSecret: "wrong" })],
  ["another client's key", "ES256", () => ({ ...privateKeyJwt("ES256"), key: provider.keys.federated })],
  ["another algorithm than is registered", "RS256", () => ({ ...privateKeyJwt("RS256"), algorithm: "PS256" })],
  ["a client assertion for another server", "federated", () => ({ method: "client_assertion", clientAssertion: () => federatedJwt({ aud: "https://login.example" }) })],
  ["a client assertion of another client", "federated", () => ({ method: "client_assertion", clientAssertion: () => federatedJwt({ iss: "other" }) })],
  ["no certificate", "tls_client_auth", () => ({ method: "tls_client_auth" }), () => ({ ca: provider.newTlsIdentity().ca })],
  ["a certificate of another name", "tls_client_auth", () => ({ method: "tls_client_auth" }), () => provider.newTlsIdentity("mallory.example")],
  ["a certificate that somebody else signed", "tls_client_auth", () => ({ method: "tls_client_auth" }), () => provider.newStranger()],
  ["nothing, as a client that has a secret", "client_secret_post", () => ({ method: "none" })],
]) {
  test(`${what} is misconfigured, once`, async () => {
    const exchanger = exchangerFor(clientId, authenticationOf(), identityOf?.());
    const error = await failureOf(exchanger.exchange({ assertion: await provider.mintUserToken(), scopes: scope, resource }));
    assert.deepEqual([error.reason, error.error, error.status], ["misconfigured", "invalid_client", 401]);
    assert.deepEqual(provider.tokenRequests.map((request) => [request.status, request.isTls]), [[401, clientId === "tls_client_auth"]]);
  });
}

test("a server whose certificate nobody vouches for is unavailable", async () => {
  const { key, cert } = provider.newTlsIdentity();
  const exchanger = exchangerFor("tls_client_auth", { method: "tls_client_auth" }, { key, cert });
  const error = await failureOf(exchanger.exchange({ assertion: await provider.mintUserToken(), scopes: scope, resource }));
  assert.deepEqual([error.reason, error.field], ["unavailable", undefined]);
  assert.equal(provider.tokenRequests.length, 0);
});

for (const [what, user, request, reason, error] of [
  ["a token for another audience", { audience: "api://other" }, {}, "assertion_rejected", "invalid_grant"],
  ["a token that another key signed", { foreignKey: true }, {}, "assertion_rejected", "invalid_grant"],
  ["a token of another issuer", { claims: { iss: "https://login.example" } }, {}, "assertion_rejected", "invalid_grant"],
  ["an unknown resource", {}, { resource: "https://nowhere.example" }, "misconfigured", "invalid_target"],
  ["an unknown scope", {}, { scopes: "files.delete" }, "misconfigured", "invalid_scope"],
]) {
  test(`${what} is ${reason}`, async () => {
    const exchanger = exchangerFor("client_secret_basic", { method: "client_secret_basic", clientSecret });
    const assertion = await provider.mintUserToken(user);
    const failure = await failureOf(exchanger.exchange({ assertion, scopes: scope, resource, ...request }));
    assert.deepEqual([failure.reason, failure.error, failure.status], [reason, error, 400]);
  });
}

test("clients of every kind at once mix up nothing", async () => {
  const exchangers = new Map([
    ["client_secret_basic", exchangerFor("client_secret_basic", { method: "client_secret_basic", clientSecret })],
    ["RS256", exchangerFor("RS256", privateKeyJwt("RS256"))],
    ["ES256", exchangerFor("ES256", privateKeyJwt("ES256"))],
    ["federated", exchangerFor("federated", { method: "client_assertion", clientAssertion: federatedJwt })],
    ["tls_client_auth", exchangerFor("tls_client_auth", { method: "tls_client_auth" }, provider.newTlsIdentity())],
    ["none", exchangerFor("none", { method: "none" })],
  ]);
  await Promise.all([...exchangers].flatMap(([clientId, exchanger]) =>
    ["ada", "grace", "edsger"].map((subject) => exchangeVerified(exchanger, subject, clientId)),
  ));
  assert.equal(provider.tokenRequests.length, 18);
  assert.ok(provider.tokenRequests.every(({ status }) => status === 200));
});
