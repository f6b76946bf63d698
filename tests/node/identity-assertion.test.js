// The grant of two token requests: an identity assertion (ID-JAG) from the identity provider, and a token for it.
import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { test } from "node:test";
import { decodeJwt, jwtVerify } from "jose";
import { TokenExchanger } from "obo-edge";
import { errorAnswer, wellKnown } from "../servers/authorization-server.js";
import { newKey } from "../servers/openssl.js";
import { invalidResponse, localIssuer, misconfigured, outline, scope, unavailable } from "./local-issuer.js";
import { assertNothingShows, clientSecret, failureOf, MapStore, newStoreSecret, thrownBy, unsignedToken } from "./support.js";

const minute = 60_000;
const idJagType = "urn:ietf:params:oauth:token-type:id-jag";
const idTokenType = "urn:ietf:params:oauth:token-type:id_token";
const saml2Type = "urn:ietf:params:oauth:token-type:saml2";
const resource = "https://files.example/mcp";
const otherSecret = "swordfish:/+ &%";
const rejected = { reason: "assertion_rejected", field: undefined, retryable: false };
const serverFailure = errorAnswer("server_error", {}, 503);
const refusedGrant = errorAnswer("invalid_grant");

/** A JWT that nobody signed, of this type and these claims. */
function idJag(claims, typ = "oauth-id-jag+jwt") {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "ES256", ...(typ && { typ }) })}.${part(claims)}.c2lnbmF0dXJl`;
}

/** The user whom a JWT is about; each of these tests' users has a name of their own. */
const userOf = (jwt) => decodeJwt(jwt).sub;

/**
 * An identity provider and a resource's authorization server. Their tokens name the user, and no ID-JAG is like another.
 *
 * @param {object} [options]
 * @param {(user: string, count: number) => object} [options.issued] members of leg 1's response in place of the truth
 * @param {(count: number) => import("../servers/authorization-server.js").Answer} [options.refuse] leg 1's answer
 * @param {(count: number) => import("../servers/authorization-server.js").Answer} [options.redeem] leg 2's answer
 */
async function twoServers(t, { issued, refuse, redeem } = {}) {
  const provider = await localIssuer(t, {
    token: ({ form }, count) => {
      const user = userOf(form.get("subject_token"));
      const members = { issued_token_type: idJagType, token_type: "N_A", expires_in: 300 };
      return refuse?.(count) ?? { body: { access_token: idJag({ sub: user, jti: `${count}` }), ...members, ...issued?.(user, count) } };
    },
  });
  const server = await localIssuer(t, {
    token: ({ form }, count) => {
      const body = { access_token: `token-of-${userOf(form.get("assertion"))}-${count}`, token_type: "Bearer", expires_in: 3600 };
      return redeem?.(count) ?? { body };
    },
  });
  const options = (overrides, atServer) => ({
    grant: "identity-assertion",
    issuer: provider.issuer,
    clientId: "at-provider",
    clientAuthentication: { method: "client_secret_post", clientSecret },
    resourceAuthorizationServer: {
      issuer: server.issuer,
      clientId: "at-server",
      clientAuthentication: { method: "client_secret_basic", clientSecret: otherSecret },
      ...atServer,
    },
    retry: { attempts: 1, delayMs: 1 },
    ...overrides,
  });
  return {
    provider,
    server,
    exchangerFor: (overrides, atServer) => new TokenExchanger(options(overrides, atServer)),
    /** How many token requests there were, of leg 1 and of leg 2. */
    legs: () => [provider.tokenRequests.length, server.tokenRequests.length],
  };
}

function requestOf(user, changes) {
  return { assertion: unsignedToken({ sub: user }), scopes: scope, resource, ...changes };
}

/** The parameters in their order. */
const parameters = ({ form }) => [...form];

test("an ID token goes to the identity provider, and what that makes of it to the resource's server", async (t) => {
  const { provider, server, exchangerFor } = await twoServers(t);
  const exchanger = exchangerFor();
  const request = requestOf("ada", { scopes: ["files.write", "files.read"] });
  const token = await exchanger.exchange(request);

  assert.deepEqual(provider.requests.map(({ path }) => path), [wellKnown[0], "/token"]);
  assert.deepEqual(parameters(provider.tokenRequests[0]), [
    ["grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"],
    ["requested_token_type", idJagType],
    ["audience", server.issuer],
    ["resource", resource],
    ["scope", "files.read files.write"],
    ["subject_token", request.assertion],
    ["subject_token_type", idTokenType],
    ["client_id", "at-provider"],
    ["client_secret", clientSecret],
  ]);
  assert.equal(provider.tokenRequests[0].headers.authorization, undefined);

  assert.deepEqual(server.requests.map(({ path }) => path), [wellKnown[0], "/token"]);
  assert.deepEqual(parameters(server.tokenRequests[0]), [
    ["grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"],
    ["assertion", idJag({ sub: "ada", jti: "1" })],
    ["scope", "files.read files.write"],
  ]);
  const encoded = new URLSearchParams([["", otherSecret]]).toString().slice(1);
  assert.equal(server.tokenRequests[0].headers.authorization, `Basic ${Buffer.from(`at-server:${encoded}`).toString("base64")}`);

  const { expiresAt, ...rest } = token;
  assert.deepEqual(rest, { accessToken: "token-of-ada-1", tokenType: "Bearer", scope: "files.read files.write", source: "issuer" });
  assert.ok(expiresAt > Date.now());
  assert.equal((await exchanger.exchange(request)).source, "memory");
  assert.equal(exchanger.stats.tokenRequests, 2);
});

test("no scope need be named, several resources may be, and a SAML assertion is called one", async (t) => {
  const { provider, server, exchangerFor } = await twoServers(t);
  const resources = ["https://b.example/mcp", "https://a.example/mcp"];
  await exchangerFor().exchange(requestOf("ada", { scopes: [], resource: resources, assertionType: saml2Type }));
  const [first] = provider.tokenRequests;
  assert.deepEqual([first.form.has("scope"), first.form.get("subject_token_type")], [false, saml2Type]);
  assert.deepEqual(first.form.getAll("resource").sort(), [...resources].sort());
  assert.equal(server.tokenRequests[0].form.has("scope"), false);
});

test("with two token endpoints there is no look at either issuer", async (t) => {
  const { provider, server, exchangerFor } = await twoServers(t);
  const exchanger = exchangerFor({ issuer: undefined, tokenEndpoint: provider.tokenEndpoint }, { tokenEndpoint: server.tokenEndpoint });
  await exchanger.exchange(requestOf("ada"));
  assert.deepEqual([...provider.requests, ...server.requests].map(({ path }) => path), ["/token", "/token"]);
  assert.equal(provider.tokenRequests[0].form.get("audience"), server.issuer);
});

test("each server gets a client assertion by its own key, for itself", async (t) => {
  const { provider, server, exchangerFor } = await twoServers(t);
  const [providerKey, serverKey] = [newKey("EC"), newKey("RSA")];
  const exchanger = exchangerFor(
    { clientAuthentication: { method: "private_key_jwt", algorithm: "ES256", key: providerKey } },
    { clientAuthentication: { method: "private_key_jwt", algorithm: "PS256", key: serverKey } },
  );
  await exchanger.exchange(requestOf("ada"));
  for (const [{ issuer, tokenRequests }, key, subject] of [[provider, providerKey, "at-provider"], [server, serverKey, "at-server"]]) {
    await jwtVerify(tokenRequests[0].form.get("client_assertion"), createPublicKey(key), { audience: issuer, issuer: subject, subject });
  }
});

for (const [what, members, field] of [
  ["has no issued_token_type", { issued_token_type: undefined }, "issued_token_type"],
  ["is called an access token", { issued_token_type: "urn:ietf:params:oauth:token-type:access_token" }, "issued_token_type"],
  ["is called a JWT", { issued_token_type: "urn:ietf:params:oauth:token-type:jwt" }, "issued_token_type"],
  ["has no token_type", { token_type: undefined }, "token_type"],
  ["is for a Bearer", { token_type: "Bearer" }, "token_type"],
  ["is a plain JWT", { access_token: idJag({ sub: "ada" }, "JWT") }, "access_token"],
  ["is an access token by its typ", { access_token: idJag({ sub: "ada" }, "at+jwt") }, "access_token"],
  ["has no typ", { access_token: idJag({ sub: "ada" }, "") }, "access_token"],
  ["is opaque", { access_token: "opaque" }, "access_token"],
  ["is absent", { access_token: undefined }, "access_token"],
]) {
  test(`an identity assertion that ${what} is never shown to the resource's server, and not kept`, async (t) => {
    const { legs, exchangerFor } = await twoServers(t, { issued: (_user, count) => (count === 1 ? members : {}) });
    const exchanger = exchangerFor();
    const request = requestOf("ada");
    const error = await failureOf(exchanger.exchange(request));
    assert.deepEqual([error.reason, error.field, error.retryable], ["invalid_response", field, false]);
    assertNothingShows([error], [request.assertion, clientSecret, "opaque"]);
    assert.deepEqual(legs(), [1, 0]);
    assert.equal((await exchanger.exchange(request)).source, "issuer");
    assert.deepEqual(legs(), [2, 1]);
  });
}

test("an identity assertion may be named by its whole media type, and N_A in any case", async (t) => {
  const issued = (user) => ({ access_token: idJag({ sub: user }, "application/OAuth-ID-JAG+jwt"), token_type: "n_a" });
  const { exchangerFor } = await twoServers(t, { issued });
  assert.equal((await exchangerFor().exchange(requestOf("ada"))).accessToken, "token-of-ada-1");
});

for (const [what, body, field] of [
  ["a token that is for no Bearer", { access_token: "t", token_type: "N_A" }, "token_type"],
  ["no token", { token_type: "Bearer" }, "access_token"],
  ["the identity assertion itself", { access_token: idJag({ sub: "ada", jti: "1" }), token_type: "Bearer" }, "access_token"],
]) {
  test(`a resource's server that answers with ${what} has given no token`, async (t) => {
    const { exchangerFor, legs } = await twoServers(t, { redeem: (count) => (count === 1 ? { body } : undefined) });
    const exchanger = exchangerFor();
    const error = await failureOf(exchanger.exchange(requestOf("ada")));
    assert.deepEqual([error.reason, error.field], ["invalid_response", field]);
    assertNothingShows([error], [idJag({ sub: "ada", jti: "1" }), otherSecret]);
    assert.deepEqual(legs(), [1, 1]);
  });
}

test("a resource's server that fails costs no second identity assertion, in this exchange or the next", async (t) => {
  const { server, legs, exchangerFor } = await twoServers(t, { redeem: (count) => (count <= 2 ? serverFailure : undefined) });
  const exchanger = exchangerFor({ retry: { attempts: 2, delayMs: 1 } });
  const request = requestOf("ada");
  assert.deepEqual(outline(await failureOf(exchanger.exchange(request))), unavailable(undefined));
  assert.deepEqual(legs(), [1, 2]);
  assert.equal((await exchanger.exchange(request)).accessToken, "token-of-ada-3");
  assert.deepEqual(legs(), [1, 3]);
  assert.equal(new Set(server.tokenRequests.map(({ form }) => form.get("assertion"))).size, 1);
});

test("an identity provider that fails is tried again before the resource's server hears of anything", async (t) => {
  const { legs, exchangerFor } = await twoServers(t, { refuse: (count) => (count === 1 ? serverFailure : undefined) });
  assert.equal((await exchangerFor({ retry: { attempts: 2, delayMs: 1 } }).exchange(requestOf("ada"))).source, "issuer");
  assert.deepEqual(legs(), [2, 1]);
});

test("an identity assertion is kept for half of its life", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const { legs, exchangerFor } = await twoServers(t, { redeem: () => serverFailure });
  const exchanger = exchangerFor();
  const request = requestOf("ada");
  for (const [passes, expected] of [[0, [1, 1]], [2 * minute, [1, 2]], [minute, [2, 3]]]) {
    t.mock.timers.tick(passes);
    await failureOf(exchanger.exchange(request));
    assert.deepEqual(legs(), expected);
  }
});

test("a kept identity assertion that is refused is made anew once, and that one serves", async (t) => {
  const answers = [serverFailure, refusedGrant];
  const { server, legs, exchangerFor } = await twoServers(t, { redeem: (count) => answers[count - 1] });
  const exchanger = exchangerFor();
  const request = requestOf("ada");
  await failureOf(exchanger.exchange(request));
  assert.equal((await exchanger.exchange(request)).accessToken, "token-of-ada-3");
  assert.deepEqual(legs(), [2, 3]);
  const [first, second, third] = server.tokenRequests.map(({ form }) => form.get("assertion"));
  assert.equal(first, second);
  assert.notEqual(second, third);
});

test("a kept one and its successor that are both refused end as rejected", async (t) => {
  const { legs, exchangerFor } = await twoServers(t, { redeem: (count) => (count === 1 ? serverFailure : refusedGrant) });
  const exchanger = exchangerFor();
  const request = requestOf("ada");
  await failureOf(exchanger.exchange(request));
  assert.deepEqual(outline(await failureOf(exchanger.exchange(request))), rejected);
  assert.deepEqual(legs(), [2, 3]);
});

test("a fresh identity assertion that is refused is rejected after one try, and not kept", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const { legs, exchangerFor } = await twoServers(t, { redeem: (count) => (count === 1 ? refusedGrant : undefined) });
  const exchanger = exchangerFor({ retry: { attempts: 3, delayMs: 1 } });
  const request = requestOf("ada");
  const error = await failureOf(exchanger.exchange(request));
  assert.deepEqual(outline(error), rejected);
  assert.deepEqual([error.status, error.error], [400, "invalid_grant"]);
  assert.deepEqual(legs(), [1, 1]);
  t.mock.timers.tick(60_000);
  assert.equal((await exchanger.exchange(request)).accessToken, "token-of-ada-2");
  assert.deepEqual(legs(), [2, 2]);
});

test("a user's ID token that the identity provider refuses is rejected, and the resource's server hears nothing", async (t) => {
  for (const name of ["invalid_grant", "invalid_request"]) {
    const { legs, exchangerFor } = await twoServers(t, { refuse: () => errorAnswer(name) });
    assert.deepEqual(outline(await failureOf(exchangerFor().exchange(requestOf("ada")))), rejected);
    assert.deepEqual(legs(), [1, 0]);
  }
});

test("two users never share an identity assertion or a token, at once or after a failure", async (t) => {
  const { provider, server, exchangerFor, legs } = await twoServers(t, { redeem: (count) => (count <= 2 ? serverFailure : undefined) });
  const exchanger = exchangerFor();
  const requests = ["ada", "grace"].map((user) => requestOf(user));
  for (const error of await Promise.all(requests.map((request) => failureOf(exchanger.exchange(request))))) {
    assert.equal(error.reason, "unavailable");
  }
  const tokens = await Promise.all(requests.map((request) => exchanger.exchange(request)));
  assert.deepEqual(tokens.map(({ accessToken }) => accessToken.replace(/-\d$/, "")), ["token-of-ada", "token-of-grace"]);
  assert.deepEqual(legs(), [2, 4]);
  assert.deepEqual(provider.tokenRequests.map(({ form }) => userOf(form.get("subject_token"))).sort(), ["ada", "grace"]);
  assert.equal(new Set(server.tokenRequests.map(({ form }) => form.get("assertion"))).size, 2);
});

test("one user's identity assertion serves for no other resource or scope", async (t) => {
  const { legs, exchangerFor } = await twoServers(t, { redeem: () => serverFailure });
  const exchanger = exchangerFor();
  const request = requestOf("ada");
  const others = [{}, { resource: "https://mail.example/mcp" }, { scopes: "mail.read" }, { scopes: [] }];
  for (const changes of others) await failureOf(exchanger.exchange({ ...request, ...changes }));
  assert.deepEqual(legs(), [others.length, others.length]);
});

test("no identity assertion reaches the store, and the token serves another exchanger from there", async (t) => {
  const { legs, exchangerFor } = await twoServers(t, { redeem: (count) => (count === 1 ? serverFailure : undefined) });
  const shared = { store: new MapStore(), storeSecrets: newStoreSecret() };
  const request = requestOf("ada");
  const exchanger = exchangerFor(shared);
  await failureOf(exchanger.exchange(request));
  const first = await exchanger.exchange(request);
  await shared.store.written(1);
  const again = await exchangerFor(shared).exchange(request);
  assert.deepEqual([again.source, again.accessToken], ["store", first.accessToken]);
  assert.deepEqual(legs(), [1, 2]);
  assert.equal(shared.store.puts.length, 1);
});

test("each server's client authentication fails by itself", async (t) => {
  const refusal = errorAnswer("invalid_client", {}, 401);
  for (const [answers, expected] of [[{ refuse: () => refusal }, [1, 0]], [{ redeem: () => refusal }, [1, 1]]]) {
    const { legs, exchangerFor } = await twoServers(t, answers);
    const error = await failureOf(exchangerFor().exchange(requestOf("ada")));
    assert.deepEqual(outline(error), misconfigured(undefined));
    assert.deepEqual([error.status, error.error], [401, "invalid_client"]);
    assertNothingShows([error], [clientSecret, otherSecret]);
    assert.deepEqual(legs(), expected);
  }
});

for (const [what, change, expected] of [
  ["names another issuer", { issuer: "https://evil.example" }, misconfigured("resourceAuthorizationServer.issuer")],
  ["has no token endpoint", { token_endpoint: undefined }, invalidResponse("resourceAuthorizationServer.issuer")],
]) {
  test(`metadata of the resource's server that ${what} is told apart from the identity provider's`, async (t) => {
    const { server, legs, exchangerFor } = await twoServers(t);
    const truth = { ...server.document };
    Object.assign(server.document, change);
    const exchanger = exchangerFor();
    const request = requestOf("ada");
    assert.deepEqual(outline(await failureOf(exchanger.exchange(request))), expected);
    assert.deepEqual(legs(), [1, 0]);

    Object.assign(server.document, truth);
    assert.equal((await exchanger.exchange(request)).source, "issuer");
    assert.deepEqual(legs(), [1, 1], "the identity assertion was kept, and the metadata was not");
  });
}

for (const [what, clientAuthentication, name] of [
  ["a callback that gives nothing", { method: "client_assertion", clientAssertion: () => undefined }, "clientAssertion"],
  ["a method that the metadata does not list", { method: "client_secret_post", clientSecret: otherSecret }, "method"],
]) {
  test(`${what} at the resource's server is told apart from the identity provider's`, async (t) => {
    const { server, legs, exchangerFor } = await twoServers(t);
    server.document.token_endpoint_auth_methods_supported = ["private_key_jwt"];
    const error = await failureOf(exchangerFor({}, { clientAuthentication }).exchange(requestOf("ada")));
    assert.deepEqual(outline(error), misconfigured(`resourceAuthorizationServer.clientAuthentication.${name}`));
    assert.deepEqual(legs(), [1, 0]);
  });
}

test("an ID token that has expired is rejected before anything is sent", async (t) => {
  const { provider, exchangerFor } = await twoServers(t);
  const request = { scopes: scope, resource, assertion: unsignedToken({ sub: "ada", exp: Math.floor(Date.now() / 1000) - 60 }) };
  assert.deepEqual(outline(await failureOf(exchangerFor().exchange(request))), { ...rejected, field: "assertion" });
  assert.equal(provider.requests.length, 0);
});

for (const [what, changes, field] of [
  ["no resource", { resource: undefined }, "resource"],
  ["an empty list of resources", { resource: [] }, "resource"],
  ["a resource that is no URI", { resource: "files" }, "resource"],
  ["an access token", { assertionType: "urn:ietf:params:oauth:token-type:access_token" }, "assertionType"],
  ["an audience, which is the server's issuer", { audience: "https://files.example" }, "audience"],
  ["an actor", { actorToken: "actor" }, "actorToken"],
  ["a claims request", { claims: "{}" }, "claims"],
]) {
  test(`a request with ${what} is refused`, async (t) => {
    const { provider, exchangerFor } = await twoServers(t);
    const error = await failureOf(exchangerFor().exchange(requestOf("ada", changes)));
    assert.deepEqual(outline(error), { reason: "invalid_request", field, retryable: false });
    assert.equal(provider.requests.length, 0);
  });
}

const second = "resourceAuthorizationServer";
for (const [what, overrides, atServer, field] of [
  ["a public client at the identity provider", { clientAuthentication: { method: "none" } }, {}, "clientAuthentication.method"],
  ["a public client at the resource's server", {}, { clientAuthentication: { method: "none" } }, `${second}.clientAuthentication.method`],
  ["no second server", { [second]: undefined }, {}, second],
  ["a text as second server", { [second]: "https://files.example" }, {}, second],
  ["a second server in another grant", { grant: "token-exchange" }, {}, second],
  ["no issuer of the second server", {}, { issuer: undefined, tokenEndpoint: "https://files.example/token" }, `${second}.issuer`],
  ["no client id at the second server", {}, { clientId: undefined }, `${second}.clientId`],
  ["no client authentication at the second server", {}, { clientAuthentication: undefined }, `${second}.clientAuthentication`],
  ["a bad key at the second server", {}, { clientAuthentication: { method: "private_key_jwt", algorithm: "RS256", key: "hunter2" } }, `${second}.clientAuthentication.key`],
  ["an unknown member of the second server", {}, { scopes: "a" }, `${second}.scopes`],
]) {
  test(`${what} is refused at construction`, async (t) => {
    const { exchangerFor } = await twoServers(t);
    const error = thrownBy(() => exchangerFor(overrides, atServer));
    assert.deepEqual(outline(error), misconfigured(field));
    assertNothingShows([error], [clientSecret, otherSecret, "hunter2"]);
  });
}
