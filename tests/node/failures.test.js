// What comes out when the identity provider refuses, breaks or is not there.
import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { TokenExchanger } from "obo-edge";
import { entraError } from "../servers/entra-error.js";
import { gatewayClient } from "../servers/identity-provider.js";
import {
  assertNothingShows,
  clientSecret,
  completeOptions,
  described,
  description,
  errorResponse,
  failureOf,
  scope,
  startIssuer,
  tokenEndpoint,
  tokenResponse,
  unsignedToken,
  until,
} from "./support.js";

let issuer;

before(async () => {
  issuer = await startIssuer();
});
after(() => issuer.close());
beforeEach(() => {
  issuer.faults.clear();
  issuer.tokenRequests.length = 0;
});

/** Exchanges a new user token at the real identity provider; checks that nothing secret shows, whatever happens. */
async function refused({ user, request, options } = {}) {
  const events = [];
  // What the identity provider says is what is tested, so no look spares it the question.
  const own = { inspectAssertion: false, onEvent: (event) => events.push(event) };
  const exchanger = new TokenExchanger(issuer.exchangerOptions({ ...own, ...options }));
  const assertion = await issuer.mintUserToken(user);
  const error = await failureOf(exchanger.exchange({ assertion, scopes: scope, ...request }));
  assertNothingShows([error, ...events], [assertion, gatewayClient.clientSecret, "AADSTS", "127.0.0.1"]);
  // Whose own time is up does not wait for the exchange to end.
  await until(() => events.at(-1).type === "failure");
  assert.equal(events.at(-1).reason, error.reason);
  return { error, events, exchanger, assertion };
}

/** Exchanges at a token endpoint in memory that answers `answer`. */
async function answered(answer, options) {
  const endpoint = tokenEndpoint(answer);
  const events = [];
  const onEvent = (event) => events.push(event);
  const retry = { delayMs: 1 };
  const exchanger = new TokenExchanger(completeOptions({ fetch: endpoint.fetch, onEvent, retry, ...options }));
  const assertion = unsignedToken();
  const error = await failureOf(exchanger.exchange({ assertion, scopes: scope }));
  assertNothingShows([error, ...events], [assertion, clientSecret, description, "ada@example.com"]);
  return { error, events, requests: endpoint.requests, exchanger, assertion };
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

for (const [what, user, request, expected] of [
  ["an expired user token", { lifetimeSeconds: -60 }, {}, { reason: "assertion_rejected", error: "invalid_grant", errorCodes: [500133] }],
  ["a user token for another audience", { audience: "api://other" }, {}, { reason: "assertion_rejected", error: "invalid_grant", errorCodes: [500131] }],
  ["a user token that another key signed", { foreignKey: true }, {}, { reason: "assertion_rejected", error: "invalid_grant", errorCodes: [50013] }],
  ["an app-only token", { claims: { idtyp: "app" } }, {}, { reason: "assertion_rejected", error: "invalid_grant", errorCodes: [7000114] }],
  ["an id token", { scopes: null }, {}, { reason: "assertion_rejected", error: "invalid_request", errorCodes: [240002] }],
  ["what is no token", {}, { assertion: "opaque" }, { reason: "assertion_rejected", error: "invalid_request", errorCodes: [50027] }],
  ["a user who has not consented", { subject: "consent-required" }, {}, { reason: "consent_required", error: "invalid_grant", errorCodes: [65001], suberror: "consent_required" }],
  ["a user whom a policy blocks", { subject: "blocked" }, {}, { reason: "blocked", error: "access_denied", errorCodes: [53003] }],
  ["an unknown scope", {}, { scopes: "api://mcp-files/unknown" }, { reason: "misconfigured", error: "invalid_scope", errorCodes: [70011] }],
  ["an unknown resource", {}, { scopes: "api://nowhere/unknown" }, { reason: "misconfigured", error: "invalid_resource", errorCodes: [500011] }],
]) {
  test(`${what} is ${expected.reason}, with all that Entra said except its text`, async () => {
    const { error } = await refused({ user, request });
    const { message, correlationId, traceId, ...rest } = described(error);
    assert.deepEqual(rest, { name: "ExchangeError", retryable: false, status: 400, ...expected });
    assert.match(correlationId, uuid);
    assert.match(traceId, uuid);
    assert.equal(message, `the token endpoint answered 400 ${expected.error} (${expected.errorCodes[0]})`);
    assert.equal(issuer.tokenRequests.length, 1, "nothing that is not transient is tried again");
  });
}

test("a second factor that is missing is interaction_required, with the claims to hand on", async () => {
  const { error, assertion, exchanger } = await refused({ user: { subject: "mfa-required" } });
  assert.equal(error.reason, "interaction_required");
  assert.equal(error.error, "interaction_required");
  assert.equal(error.suberror, "basic_action");
  assert.deepEqual(error.errorCodes, [50076]);
  assert.deepEqual(Object.keys(JSON.parse(error.claims).access_token), ["capolids"]);
  assert.equal(error.retryable, false);

  const steppedUp = await issuer.mintUserToken({ subject: "mfa-required", claims: { amr: ["pwd", "mfa"] } });
  assert.equal((await exchanger.exchange({ assertion: steppedUp, scopes: scope, claims: error.claims })).source, "issuer");
  assert.notEqual(assertion, steppedUp);
});

test("Entra's throttling of one user is throttled although it says invalid_grant, and is not tried again", async () => {
  const { error } = await refused({ user: { subject: "throttled" } });
  assert.equal(error.reason, "throttled");
  assert.equal(error.error, "invalid_grant");
  assert.equal(error.status, 400);
  assert.equal(error.retryable, true);
  assert.deepEqual(error.errorCodes, [50196]);
  assert.equal(issuer.tokenRequests.length, 1);
});

test("one user's failure leaves no mark on another user", async () => {
  const { exchanger } = await refused({ user: { subject: "blocked" } });
  const assertion = await issuer.mintUserToken({ subject: "grace" });
  assert.equal((await exchanger.exchange({ assertion, scopes: scope })).source, "issuer");
});

test("a 503 is tried again once, and the caller gets its token", async () => {
  const events = [];
  const exchanger = new TokenExchanger(issuer.exchangerOptions({ onEvent: (event) => events.push(event) }));
  issuer.faults.push(503);
  const token = await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope });
  assert.equal(token.source, "issuer");
  assert.equal(issuer.tokenRequests.length, 2);
  assert.deepEqual(events.map(({ type, attempt }) => [type, attempt]), [
    ["token_request", 1],
    ["retry", 1],
    ["token_request", 2],
    ["token", 2],
  ]);
  const [, retry] = events;
  assert.equal(retry.reason, "unavailable");
  assert.equal(retry.status, 503);
  assert.ok(retry.waitMs >= 20 && retry.waitMs <= 30, `${retry.waitMs} ms is not the delay and up to a half`);
  const [first, second] = issuer.tokenRequests;
  assert.ok(second.at - first.at >= retry.waitMs - 1);
});

for (const status of [408, 500, 502, 503, 504]) {
  test(`a ${status} that stays is unavailable after two requests`, async () => {
    issuer.faults.push(status, 5);
    const { error } = await refused();
    assert.deepEqual(described(error), {
      message: `the token endpoint answered ${status}`,
      name: "ExchangeError",
      reason: "unavailable",
      retryable: true,
      status,
    });
    assert.equal(issuer.tokenRequests.length, 2);
  });
}

test("as many requests are sent as the options say, and no more", async () => {
  for (const attempts of [1, 3]) {
    issuer.faults.clear();
    issuer.tokenRequests.length = 0;
    issuer.faults.push(503, 9);
    await refused({ options: { retry: { attempts, delayMs: 1 } } });
    assert.equal(issuer.tokenRequests.length, attempts);
  }
});

test("a Retry-After that does not fit the time left ends the exchange at once and is told in seconds", async () => {
  issuer.faults.push({ status: 429, headers: { "Retry-After": "60" } });
  const started = Date.now();
  const { error } = await refused();
  assert.ok(Date.now() - started < 1500);
  assert.equal(error.reason, "throttled");
  assert.equal(error.retryable, true);
  assert.equal(error.status, 429);
  assert.equal(error.retryAfter, 60);
  assert.equal(issuer.tokenRequests.length, 1);
});

test("a Retry-After that fits is obeyed", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  issuer.faults.push({ status: 429, headers: { "Retry-After": "1" } });
  await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope });
  const [first, second] = issuer.tokenRequests;
  assert.ok(second.at - first.at >= 995, `only ${second.at - first.at} ms apart`);
});

test("a Retry-After as a date is told in seconds, and a senseless one not at all", async () => {
  for (const [header, least, most] of [
    [new Date(Date.now() + 100_000).toUTCString(), 97, 100],
    ["99999999999", 3600, 3600],
    ["soon", undefined, undefined],
    ["-5", undefined, undefined],
  ]) {
    const { error } = await answered(() => errorResponse(429, {}, { "retry-after": header }), { retry: { attempts: 1 } });
    if (least === undefined) assert.equal(error.retryAfter, undefined, header);
    else assert.ok(error.retryAfter >= least && error.retryAfter <= most, `${header}: ${error.retryAfter}`);
  }
});

test("a connection that is reset is tried again", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  issuer.faults.push("reset");
  await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope });
  assert.equal(issuer.tokenRequests.length, 2);
  issuer.faults.push("reset", 2);
  const { error } = await refused();
  assert.deepEqual(described(error), {
    message: "the token endpoint could not be reached",
    name: "ExchangeError",
    reason: "unavailable",
    retryable: true,
  });
});

test("a token endpoint that nobody listens at is unavailable", async () => {
  const closed = await startIssuer();
  await closed.close();
  const exchanger = new TokenExchanger(closed.exchangerOptions());
  const error = await failureOf(exchanger.exchange({ assertion: unsignedToken(), scopes: scope }));
  assert.equal(error.reason, "unavailable");
});

test("an endpoint that never answers ends within the time-out, and its requests are aborted", async () => {
  issuer.faults.push("timeout", 2);
  const started = Date.now();
  const signals = [];
  const fetch = (url, init) => {
    signals.push(init.signal);
    return globalThis.fetch(url, init);
  };
  const { error, exchanger } = await refused({ options: { timeoutMs: 1000, fetch } });
  const took = Date.now() - started;
  assert.equal(error.reason, "unavailable");
  assert.equal(error.retryable, true);
  assert.ok(took < 1400, `took ${took} ms`);
  assert.equal(issuer.tokenRequests.length, 2, "the first gets half of the time");
  assert.deepEqual(signals.map((signal) => signal.aborted), [true, true]);
  assert.equal(exchanger.stats.flights, 0);
});

test("an endpoint that answers late, within the time-out, is waited for", async () => {
  issuer.faults.delayMs = 300;
  const exchanger = new TokenExchanger(issuer.exchangerOptions({ timeoutMs: 1000 }));
  assert.equal((await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope })).source, "issuer");
});

test("a body that never ends is given up within the time-out", async () => {
  const body = () => new ReadableStream({ pull: () => new Promise(() => {}) });
  const started = Date.now();
  const { error } = await answered(() => new Response(body()), { timeoutMs: 1000 });
  assert.equal(error.reason, "unavailable");
  assert.ok(Date.now() - started < 1400);
});

test("a body that trickles is given up within the time-out", async () => {
  let cancelled = 0;
  const body = () =>
    new ReadableStream({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        controller.enqueue(new Uint8Array([32]));
      },
      cancel: () => void (cancelled += 1),
    });
  const started = Date.now();
  const { error } = await answered(() => new Response(body()), { timeoutMs: 1000 });
  assert.equal(error.reason, "unavailable");
  assert.ok(Date.now() - started < 1400);
});

test("a page is an invalid response, and is not tried again", async () => {
  issuer.faults.push("html");
  const { error } = await refused();
  assert.deepEqual(described(error), {
    message: "the token endpoint's response is not a JSON object",
    name: "ExchangeError",
    reason: "invalid_response",
    retryable: false,
    status: 200,
  });
  assert.equal(issuer.tokenRequests.length, 1);
});

test("ten megabytes are an invalid response, and are not read to their end", async () => {
  issuer.faults.push("huge");
  let received = 0;
  const counting = async (url, init) => {
    const response = await globalThis.fetch(url, init);
    const counter = new TransformStream({
      transform(chunk, controller) {
        received += chunk.length;
        controller.enqueue(chunk);
      },
    });
    return new Response(response.body.pipeThrough(counter), response);
  };
  const { error } = await refused({ options: { fetch: counting } });
  assert.equal(error.reason, "invalid_response");
  assert.equal(error.message, "the token endpoint's response is larger than 1 MiB");
  assert.ok(received < 3_000_000, `${received} bytes were read`);
});

test("an error response of ten megabytes is bounded too", async () => {
  const { error } = await answered(() => new Response("a".repeat(10_000_000), { status: 400 }));
  assert.equal(error.reason, "invalid_response");
});

test("a redirect is an invalid response and is not followed", async () => {
  issuer.faults.push("redirect");
  const { error } = await refused();
  assert.equal(error.reason, "invalid_response");
  assert.equal(error.retryable, false);
  assert.equal(error.status, 307);
  assert.equal(issuer.faults.redirectsFollowed, 0);
});

test("a fetch that hides a redirect, as browsers do, is refused too", async () => {
  const opaque = () => Object.defineProperty(new Response(null), "type", { value: "opaqueredirect" });
  const { error } = await answered(opaque);
  assert.equal(error.reason, "invalid_response");
});

for (const [what, members, field] of [
  ["no access_token", { access_token: undefined }, "access_token"],
  ["an empty access_token", { access_token: "" }, "access_token"],
  ["an access_token that is an object", { access_token: {} }, "access_token"],
  ["an access_token that would split a header", { access_token: "a\r\nX-Injected: 1" }, "access_token"],
  ["another token_type", { token_type: "DPoP" }, "token_type"],
  ["no token_type", { token_type: undefined }, "token_type"],
]) {
  test(`a response with ${what} is an invalid response that names ${field}`, async () => {
    issuer.faults.push({ members });
    const { error } = await refused();
    assert.equal(error.reason, "invalid_response");
    assert.equal(error.field, field);
    assert.equal(error.status, 200);
    assert.equal(issuer.tokenRequests.length, 1);
  });
}

test("a response whose token is the assertion itself is refused, and nothing is kept", async () => {
  const { error, exchanger } = await answered((form) => tokenResponse({ access_token: form.get("assertion") }));
  assert.equal(error.reason, "invalid_response");
  assert.equal(error.field, "access_token");
  assert.equal(exchanger.stats.memoryEntries, 0);
});

test("a refresh token in the response is not handed on", async () => {
  const exchanger = new TokenExchanger(issuer.exchangerOptions());
  issuer.faults.push({ members: { refresh_token: "refresh-me", id_token: "id" } });
  const token = await exchanger.exchange({ assertion: await issuer.mintUserToken(), scopes: scope });
  assert.ok(!JSON.stringify(token).includes("refresh-me"));
});

test("no error quotes what an identity provider echoes into its members", async () => {
  const members = {
    error: `invalid_grant ${description}`,
    suberror: description,
    correlation_id: description,
    trace_id: description,
    acr_values: `"${description}"`,
    error_codes: [description],
    claims: description,
    timestamp: description,
  };
  const { error } = await answered((form) => errorResponse(400, { ...members, error_uri: form.get("assertion") }));
  assert.equal(error.reason, "misconfigured");
  assert.deepEqual(described(error), {
    message: "the token endpoint answered 400",
    name: "ExchangeError",
    reason: "misconfigured",
    retryable: false,
    status: 400,
  });
});

test("no error quotes the assertion or the secret that a provider echoes as its error", async () => {
  for (const name of ["error", "suberror", "correlation_id", "trace_id", "claims"]) {
    await answered((form) => errorResponse(400, { error: "invalid_grant", [name]: form.get("assertion") }));
    await answered((form) => errorResponse(400, { error: "invalid_grant", [name]: form.get("client_secret") }));
  }
});

test("no error quotes what fetch threw", async () => {
  const { error } = await answered((form, init) => {
    throw new Error(`cannot POST ${init.body} ${form.get("assertion")} ${form.get("client_secret")}`);
  });
  assert.equal(error.reason, "unavailable");
});

test("members of unexpected types and sizes in an error break nothing", async () => {
  for (const members of [
    { error: 7 },
    { error: null },
    { error: ["invalid_grant"] },
    { error: "invalid_grant", error_codes: "50076" },
    { error: "invalid_grant", error_codes: [-1, 1.5, 1e300, "50076", null] },
    { error: "invalid_grant", error_codes: Array.from({ length: 5000 }, (_, index) => index) },
    { error: "invalid_grant", suberror: {} },
    { error: "invalid_grant", claims: "[]" },
    { error: "invalid_grant", claims: "x".repeat(100_000) },
    { error: "x".repeat(100_000) },
  ]) {
    const { error } = await answered(() => errorResponse(400, members));
    assert.ok(["assertion_rejected", "misconfigured", "invalid_response"].includes(error.reason), JSON.stringify(members));
    assert.ok(JSON.stringify(error).length < 10_000);
  }
});

test("a max_age of any size is a failure as any other", async () => {
  for (const maxAge of ["0", "300", '"300"', "-1", "1.5", "9007199254740993", "1152921504606846976", "1e300", "null", '"x"']) {
    const body = `{"error":"insufficient_user_authentication","acr_values":"a b","max_age":${maxAge}}`;
    const { error } = await answered(() => new Response(body, { status: 400 }));
    assert.equal(error.reason, "interaction_required", maxAge);
    assert.equal(error.acrValues, "a b");
    if (maxAge.includes("300") && !maxAge.includes("e")) assert.equal(error.maxAge, 300);
  }
});

test("an error response that is no JSON is an invalid response with its status", async () => {
  const { error } = await answered(() => new Response("<h1>Bad Request</h1>", { status: 400 }));
  assert.equal(error.reason, "invalid_response");
  assert.equal(error.status, 400);
});

test("each caller gets an error of its own, whose changes no other caller sees", async () => {
  const endpoint = tokenEndpoint(() => errorResponse(400, entraError(50076).body));
  const exchanger = new TokenExchanger(completeOptions({ fetch: endpoint.fetch }));
  const assertion = unsignedToken();
  const errors = await Promise.all([1, 2, 3].map(() => failureOf(exchanger.exchange({ assertion, scopes: scope }))));
  assert.equal(endpoint.requests.length, 1);
  assert.equal(new Set(errors).size, 3);
  errors[0].errorCodes.push(1);
  assert.deepEqual(errors[1].errorCodes, [50076]);
  for (const error of errors) assert.deepEqual([error.reason, error.name], ["interaction_required", "ExchangeError"]);
});

test("a fetch that returns no response is unavailable, not an exception of another kind", async () => {
  for (const response of [null, undefined, "text", 7, {}, { status: 200 }, Response.error(), new Response(null, { status: 204 })]) {
    const exchanger = new TokenExchanger(completeOptions({ fetch: () => response, retry: { attempts: 1 } }));
    const error = await failureOf(exchanger.exchange({ assertion: unsignedToken(), scopes: scope }));
    assert.ok(["unavailable", "invalid_response"].includes(error.reason), `${response}: ${error.reason}`);
    assert.equal(exchanger.stats.flights, 0);
  }
});

test("a fetch of another library's, whose Response is not the global one, is understood", async () => {
  const fetch = async () => {
    const { status, headers, body } = tokenResponse({ access_token: "from-elsewhere" });
    return { status, headers, body, ok: true, type: "default", redirected: false };
  };
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  assert.equal((await exchanger.exchange({ assertion: unsignedToken(), scopes: scope })).accessToken, "from-elsewhere");
});

test("a response whose body somebody has read or locked is a failure, not an uncaught exception", async (context) => {
  const uncaught = [];
  const note = (error) => uncaught.push(error);
  process.on("uncaughtException", note);
  context.after(() => process.off("uncaughtException", note));
  const spoil = { read: (response) => response.text(), lock: (response) => void response.body.getReader() };
  for (const [how, spoiled] of Object.entries(spoil)) {
    const fetch = async () => {
      const response = tokenResponse();
      await spoiled(response);
      return response;
    };
    const exchanger = new TokenExchanger(completeOptions({ fetch, retry: { attempts: 1 }, timeoutMs: 1000 }));
    const started = Date.now();
    const error = await failureOf(exchanger.exchange({ assertion: unsignedToken(), scopes: scope }));
    assert.ok(["unavailable", "invalid_response"].includes(error.reason));
    assert.deepEqual(uncaught, [], how);
    assert.ok(Date.now() - started < 500, `${how}: only the time-out ended it`);
  }
});

test("a stream of what are no bytes is a failure as any other", async () => {
  const body = () => new ReadableStream({ start: (controller) => (controller.enqueue("text"), controller.close()) });
  const { error } = await answered(() => new Response(body()), { retry: { attempts: 1 } });
  assert.ok(["unavailable", "invalid_response"].includes(error.reason));
});
