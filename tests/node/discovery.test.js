// The token endpoint by the issuer alone: where metadata is looked for, how long it is believed, and what it may not say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { TokenExchanger } from "obo-edge";
import { errorAnswer, startAuthorizationServer, wellKnown } from "../servers/authorization-server.js";
import { exchangeAt, exchangerFor, failureUnsent, invalidResponse, localIssuer, misconfigured, outline, unavailable } from "./local-issuer.js";
import { clientSecret, completeOptions, failureOf, thrownBy, unsignedToken, until } from "./support.js";

const minute = 60_000;
const hour = 60 * minute;

/** Metadata with these members instead of the truth, at the first place only. */
function members(changes) {
  return (document, path) => (path === wellKnown[0] ? { body: { ...document, ...changes } } : 404);
}

/** Text that is one JSON string without an end, or with one after `bytes`. */
function* longDocument(bytes = Number.POSITIVE_INFINITY) {
  const chunk = "a".repeat(50_000);
  yield '{"filler":"';
  for (let sent = 0; sent < bytes; sent += chunk.length) yield chunk;
  yield '"}';
}

test("the issuer alone is enough: its metadata is read once, and names where token requests go", async (t) => {
  const issuer = await localIssuer(t);
  const exchanger = exchangerFor(issuer);
  const first = await exchangeAt(exchanger);
  const second = await exchangeAt(exchanger);
  assert.deepEqual([first.source, second.source], ["issuer", "issuer"]);
  assert.deepEqual(issuer.requests.map(({ method, path }) => [method, path]), [
    ["GET", wellKnown[0]],
    ["POST", "/token"],
    ["POST", "/token"],
  ]);
  const [look] = issuer.requests;
  assert.equal(look.headers.accept, "application/json");
  assert.equal(look.headers.authorization, undefined, "metadata is public: nothing proves the client there");
});

test("with a token endpoint there is no look at the issuer", async (t) => {
  const issuer = await localIssuer(t);
  await exchangeAt(exchangerFor(issuer, { tokenEndpoint: issuer.tokenEndpoint }));
  assert.deepEqual(issuer.requests.map(({ path }) => path), ["/token"]);
});

test("an issuer with a path is looked for where both standards have it", async (t) => {
  const path = "/tenant/v2.0";
  const places = [path + wellKnown[0], wellKnown[1] + path];
  const issuer = await localIssuer(t, { path, metadata: (document, place) => (place === places[1] ? { body: document } : 404) });
  await exchangeAt(exchangerFor(issuer));
  assert.deepEqual(issuer.requests.map((request) => request.path), [...places, "/token"]);
});

test("a document that cannot be used at the first place does not hide a good one at the second", async (t) => {
  const issuer = await localIssuer(t, {
    metadata: (document, path) => (path === wellKnown[0] ? { body: "<html>" } : { body: document }),
  });
  assert.equal((await exchangeAt(exchangerFor(issuer))).source, "issuer");
});

for (const [what, metadata, expected, status] of [
  ["names another issuer", members({ issuer: "https://evil.example" }), misconfigured("issuer")],
  ["names the issuer with a slash more", (document) => ({ body: { ...document, issuer: `${document.issuer}/` } }), misconfigured("issuer")],
  ["names the issuer in a template", members({ issuer: "http://127.0.0.1/{tenantid}" }), misconfigured("issuer")],
  ["names no issuer", members({ issuer: undefined }), misconfigured("issuer")],
  ["names a list of issuers", (document) => ({ body: { ...document, issuer: [document.issuer] } }), misconfigured("issuer")],
  ["is nowhere", () => 404, misconfigured("issuer")],
  ["is forbidden", () => 403, misconfigured("issuer")],
  ["is a page", () => ({ headers: { "content-type": "text/html" }, body: "<!doctype html>" }), invalidResponse("issuer")],
  ["is empty", () => 200, invalidResponse("issuer")],
  ["is a list", () => ({ body: "[]" }), invalidResponse("issuer")],
  ["has no token endpoint", members({ token_endpoint: undefined }), invalidResponse("issuer")],
  ["has a token endpoint of plain http on another host", members({ token_endpoint: "http://login.example/token" }), invalidResponse("issuer")],
  ["has a token endpoint with a password", members({ token_endpoint: "https://user:hunter2@login.example/token" }), invalidResponse("issuer")],
  ["has a token endpoint of another scheme", members({ token_endpoint: "file:///etc/passwd" }), invalidResponse("issuer")],
  ["has a relative token endpoint", members({ token_endpoint: "/token" }), invalidResponse("issuer")],
  ["has a token endpoint that is a number", members({ token_endpoint: 7 }), invalidResponse("issuer")],
  ["has an alias that is no URL", members({ mtls_endpoint_aliases: { token_endpoint: "nonsense" } }), invalidResponse("issuer")],
  ["has 10 MB", () => ({ body: longDocument(10_000_000) }), invalidResponse("issuer")],
  ["is a redirect", () => ({ status: 302, headers: { location: "/elsewhere" } }), invalidResponse("issuer")],
  ["is a redirect for good", () => ({ status: 308, headers: { location: "/elsewhere" } }), invalidResponse("issuer")],
  ["cannot be given at the moment", () => 503, unavailable("issuer"), 503],
  ["is throttled", () => 429, unavailable("issuer"), 429],
  ["is cut off by the network", () => "reset", unavailable("issuer")],
]) {
  test(`metadata that ${what} is ${expected.reason}; nothing is sent, nothing kept, and the next exchange looks again`, async (t) => {
    let isBroken = true;
    const issuer = await localIssuer(t, { metadata: (...seen) => (isBroken ? metadata(...seen) : undefined) });
    const exchanger = exchangerFor(issuer);
    const error = await failureUnsent(issuer, exchanger, { secrets: ["evil.example", "hunter2", "127.0.0.1"] });
    assert.deepEqual(outline(error), expected);
    assert.equal(error.status, status);
    assert.ok(issuer.requests.every(({ path }) => wellKnown.includes(path)), "only the two places are asked");

    isBroken = false;
    assert.equal((await exchangeAt(exchanger)).source, "issuer");
  });
}

test("a document without an end is not read to its end", async (t) => {
  let hasStopped = false;
  function* endless() {
    try {
      yield* longDocument();
    } finally {
      hasStopped = true;
    }
  }
  const issuer = await localIssuer(t, { metadata: (_document, path) => (path === wellKnown[0] ? { body: endless() } : 404) });
  const error = await failureUnsent(issuer, exchangerFor(issuer));
  assert.deepEqual(outline(error), invalidResponse("issuer"));
  await until(() => hasStopped);
});

test("what is transient at the metadata is tried again, as a token request is", async (t) => {
  // Where the server answers, the other place is asked too before it is tried again.
  for (const [fault, requests] of [["reset", 2], [503, 3]]) {
    const issuer = await localIssuer(t, { metadata: (_document, _path, count) => (count === 1 ? fault : undefined) });
    const exchanger = exchangerFor(issuer);
    assert.equal((await exchangeAt(exchanger)).source, "issuer");
    assert.equal(issuer.metadataRequests.length, requests);
    assert.equal(exchanger.stats.tokenRequests, 1);
  }
});

test("an issuer that nobody listens at is unavailable", async (t) => {
  const issuer = await localIssuer(t);
  const gone = await startAuthorizationServer();
  await gone.close();
  const exchanger = exchangerFor(issuer, { issuer: gone.issuer });
  assert.deepEqual(outline(await failureUnsent(issuer, exchanger)), unavailable("issuer"));
});

test("metadata that never arrives is unavailable while there is still time to say so", async (t) => {
  const issuer = await localIssuer(t, { metadata: () => "silence" });
  const exchanger = exchangerFor(issuer, { timeoutMs: 1000 });
  assert.deepEqual(outline(await failureUnsent(issuer, exchanger)), unavailable("issuer"));
});

test("a token endpoint that breaks after the discovery is not the issuer's fault", async (t) => {
  for (const [answer, expected] of [
    ["reset", unavailable(undefined)],
    [503, unavailable(undefined)],
    [{ status: 307, headers: { location: "/elsewhere" } }, invalidResponse("tokenEndpoint")],
    [{ body: "<html>" }, invalidResponse(undefined)],
  ]) {
    const issuer = await localIssuer(t, { token: () => answer });
    const error = await failureOf(exchangeAt(exchangerFor(issuer)));
    assert.deepEqual(outline(error), expected);
    const tokenRequests = expected.retryable ? 2 : 1;
    assert.deepEqual(issuer.requests.map(({ path }) => path), [wellKnown[0], ...Array(tokenRequests).fill("/token")]);
  }
});

test("two exchangers at once each believe their own issuer only", async (t) => {
  const good = await localIssuer(t);
  const bad = await localIssuer(t, { metadata: () => ({ body: good.document }) });
  const [token, error] = await Promise.all([exchangeAt(exchangerFor(good)), failureUnsent(bad, exchangerFor(bad))]);
  assert.equal(token.source, "issuer");
  assert.deepEqual(outline(error), misconfigured("issuer"));
  assert.equal(good.tokenRequests.length, 1);
});

test("exchangers made side by side for one issuer share no metadata, and several users do share one exchanger's", async (t) => {
  const issuer = await localIssuer(t);
  const [one, other] = [exchangerFor(issuer), exchangerFor(issuer)];
  await Promise.all([exchangeAt(one), exchangeAt(other)]);
  assert.equal(issuer.metadataRequests.length, 2);
  await Promise.all([exchangeAt(one), exchangeAt(one), exchangeAt(other)]);
  assert.equal(issuer.metadataRequests.length, 2);
});

test("metadata is believed for an hour, and for a day at most while the look fails", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  let isBroken = false;
  const issuer = await localIssuer(t, { metadata: () => (isBroken ? 503 : undefined) });
  const exchanger = exchangerFor(issuer, { retry: { attempts: 1 } });
  const looks = async (exchange) => {
    const before = issuer.metadataRequests.length;
    await exchange;
    return issuer.metadataRequests.length - before;
  };
  assert.equal(await looks(exchangeAt(exchanger)), 1);
  t.mock.timers.tick(hour - minute);
  assert.equal(await looks(exchangeAt(exchanger)), 0);
  t.mock.timers.tick(2 * minute);
  assert.equal(await looks(exchangeAt(exchanger)), 1);

  isBroken = true;
  t.mock.timers.tick(23 * hour);
  assert.equal(await looks(exchangeAt(exchanger)), 2, "both places; old metadata serves where the look fails");
  t.mock.timers.tick(hour + minute);
  const error = await failureUnsent(issuer, exchanger);
  assert.deepEqual(outline(error), unavailable("issuer"));
});

test("an endpoint that moved is found after the hour, and the old one is asked no more", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const issuer = await localIssuer(t, { token: () => errorAnswer("invalid_scope") });
  const next = await localIssuer(t);
  const exchanger = exchangerFor(issuer);
  await failureOf(exchangeAt(exchanger));
  issuer.document.token_endpoint = next.tokenEndpoint;
  await failureOf(exchangeAt(exchanger));
  assert.equal(next.tokenRequests.length, 0);
  t.mock.timers.tick(hour + minute);
  assert.equal((await exchangeAt(exchanger)).source, "issuer");
  assert.deepEqual([issuer.tokenRequests.length, next.tokenRequests.length], [2, 1]);
});

for (const [method, clientAuthentication] of [
  ["client_secret_post", { clientSecret }],
  ["client_secret_basic", { clientSecret }],
  ["client_assertion", { clientAssertion: () => assert.fail("nobody was to ask for it") }],
  ["tls_client_auth", {}],
  ["none", {}],
]) {
  test(`${method} is not tried where the metadata does not list it`, async (t) => {
    const own = method === "client_assertion" ? ["private_key_jwt", "client_secret_jwt"] : [method];
    const all = ["client_secret_post", "client_secret_basic", "private_key_jwt", "client_secret_jwt", "tls_client_auth", "none"];
    const issuer = await localIssuer(t);
    const { fetch } = globalThis;
    const exchanger = exchangerFor(issuer, { fetch, clientAuthentication: { method, ...clientAuthentication } });
    for (const listed of [all.filter((name) => !own.includes(name)), []]) {
      issuer.document.token_endpoint_auth_methods_supported = listed;
      const error = await failureUnsent(issuer, exchangerFor(issuer, { fetch, clientAuthentication: { method, ...clientAuthentication } }));
      assert.deepEqual(outline(error), misconfigured("clientAuthentication.method"));
    }
    if (method === "client_assertion") return;
    for (const listed of [own, undefined]) {
      issuer.document.token_endpoint_auth_methods_supported = listed;
      assert.equal((await exchangeAt(exchanger)).source, "issuer");
    }
  });
}

test("metadata speaks of nothing where the token endpoint is an option", async (t) => {
  const issuer = await localIssuer(t);
  issuer.document.token_endpoint_auth_methods_supported = [];
  assert.equal((await exchangeAt(exchangerFor(issuer, { tokenEndpoint: issuer.tokenEndpoint }))).source, "issuer");
});

for (const host of ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"]) {
  for (const tenant of ["common", "organizations", "consumers", "Common"]) {
    for (const [field, url] of [["issuer", `https://${host}/${tenant}/v2.0`], ["tokenEndpoint", `https://${host}/${tenant}/oauth2/v2.0/token`]]) {
      test(`the ${field} ${url} is refused: no tenant`, () => {
        const error = thrownBy(() => new TokenExchanger(completeOptions({ [field]: url })));
        assert.deepEqual(outline(error), misconfigured(field));
      });
    }
  }
}

test("a tenant's own authority is taken, whatever the tenant is called", () => {
  for (const tenant of ["11112222-bbbb-3333-cccc-4444dddd5555", "contoso.onmicrosoft.com", "common.example"]) {
    const authority = `https://login.microsoftonline.com/${tenant}`;
    const options = { issuer: `${authority}/v2.0`, tokenEndpoint: `${authority}/oauth2/v2.0/token` };
    assert.ok(new TokenExchanger(completeOptions(options)));
  }
});

for (const [what, url] of [
  ["plain http to a remote host", "http://login.example"],
  ["with a query", "https://login.example/?tenant=a"],
  ["with a fragment", "https://login.example/#a"],
  ["with a password", "https://user:hunter2@login.example"],
  ["that is no URL", "login.example"],
  ["that is empty", ""],
  ["that is a number", 7],
]) {
  test(`an issuer ${what} is refused at construction`, () => {
    const error = thrownBy(() => new TokenExchanger(completeOptions({ issuer: url, tokenEndpoint: undefined })));
    assert.deepEqual(outline(error), misconfigured("issuer"));
    assert.ok(!error.message.includes("hunter2"));
  });
}

test("all who wait for one discovery learn why it failed", async (t) => {
  const issuer = await localIssuer(t, { metadata: members({ issuer: "https://evil.example" }) });
  const exchanger = exchangerFor(issuer);
  const assertion = unsignedToken();
  const errors = await Promise.all([1, 2, 3].map(() => failureUnsent(issuer, exchanger, { request: { assertion } })));
  for (const error of errors) assert.deepEqual(outline(error), misconfigured("issuer"));
  assert.equal(exchanger.stats.joins, 2);
});
