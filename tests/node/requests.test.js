// What an exchange refuses to be asked. Every error names the field, and none quotes a value.
import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import { TokenExchanger } from "obo-edge";
import { initSync } from "../../pkg/wasm/obo_edge.js";
import { assertNothingShows, completeOptions, described, failureOf, scope, tokenEndpoint, tokenFor, unsignedToken } from "./support.js";

const marker = "hunter2";

function complete(overrides) {
  return { assertion: unsignedToken(), scopes: scope, ...overrides };
}

/** Checks that exchange and evict both refuse the request, name `field`, and fetch nothing. */
async function assertRefused(request, field) {
  const exchanger = new TokenExchanger(completeOptions());
  for (const method of ["exchange", "evict"]) {
    const error = await failureOf(exchanger[method](request));
    const { message, ...rest } = described(error);
    assert.deepEqual(rest, { name: "ExchangeError", reason: "invalid_request", retryable: false, field });
    assert.ok(message.startsWith(`${field} `), `${message} does not begin with ${field}`);
    assertNothingShows([error], [marker]);
  }
  assert.equal(exchanger.stats.tokenRequests, 0);
  assert.equal(exchanger.stats.flights, 0);
}

/** Checks that the request is answered with the token of its own assertion. */
async function assertAnswered(request, assertion = request.assertion) {
  const { fetch, requests } = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  const token = await exchanger.exchange(request);
  assert.equal(token.accessToken, tokenFor(assertion));
  return { exchanger, form: requests[0].form };
}

const subject = (members) => ({ issuer: "https://login.example", id: "ada", ...members });

for (const [what, request, field] of [
  ["no request", undefined, "assertion"],
  ["null", null, "assertion"],
  ["an empty object", {}, "assertion"],
  ["no assertion", complete({ assertion: undefined }), "assertion"],
  ["null as assertion", complete({ assertion: null }), "assertion"],
  ["an empty assertion", complete({ assertion: "" }), "assertion"],
  ["a number as assertion", complete({ assertion: 7 }), "assertion"],
  ["a String object as assertion", complete({ assertion: new String(marker) }), "assertion"],
  ["bytes as assertion", complete({ assertion: new TextEncoder().encode(marker) }), "assertion"],
  ["a list as assertion", complete({ assertion: [marker] }), "assertion"],
  ["a promise as assertion", complete({ assertion: Promise.resolve(marker) }), "assertion"],
  ["a function as assertion", complete({ assertion: () => marker }), "assertion"],
  ["a symbol as assertion", complete({ assertion: Symbol(marker) }), "assertion"],
  ["a bigint as assertion", complete({ assertion: 7n }), "assertion"],
  ["an assertion with its scheme", complete({ assertion: `Bearer ${marker}` }), "assertion"],
  ["an assertion with a line break", complete({ assertion: `${marker}\n` }), "assertion"],
  ["an assertion outside ASCII", complete({ assertion: `${marker}\u00e4` }), "assertion"],
  ["an assertion with a lone surrogate", complete({ assertion: `${marker}\ud800` }), "assertion"],
  ["an assertion with a NUL", complete({ assertion: `${marker}\0` }), "assertion"],
  ["an assertion of more than 64 KiB", complete({ assertion: marker.repeat(10_000) }), "assertion"],
  ["no scopes", complete({ scopes: undefined }), "scopes"],
  ["an empty string of scopes", complete({ scopes: "" }), "scopes"],
  ["a blank string of scopes", complete({ scopes: "   " }), "scopes"],
  ["an empty list of scopes", complete({ scopes: [] }), "scopes"],
  ["a list of an empty scope", complete({ scopes: [scope, ""] }), "scopes"],
  ["a list with a hole", complete({ scopes: [scope, , "x"] }), "scopes"],
  ["a list of a number", complete({ scopes: [scope, 7] }), "scopes"],
  ["a list in a list", complete({ scopes: [[scope]] }), "scopes"],
  ["a set of scopes", complete({ scopes: new Set([scope]) }), "scopes"],
  ["a number as scopes", complete({ scopes: 7 }), "scopes"],
  ["a scope with a quote", complete({ scopes: `${marker}"` }), "scopes"],
  ["a scope with a backslash", complete({ scopes: `${marker}\\` }), "scopes"],
  ["scopes apart by a tab", complete({ scopes: `${marker}\tb` }), "scopes"],
  ["a scope outside ASCII", complete({ scopes: `${marker}\u00e4` }), "scopes"],
  ["a scope with a lone surrogate", complete({ scopes: `${marker}\udc00` }), "scopes"],
  ["too many scopes", complete({ scopes: Array.from({ length: 65 }, (_, index) => `${marker}${index}`) }), "scopes"],
  ["a scope too long", complete({ scopes: marker.repeat(1000) }), "scopes"],
  ["a string as subject", complete({ subject: marker }), "subject"],
  ["an empty subject", complete({ subject: {} }), "subject"],
  ["a list as subject", complete({ subject: [] }), "subject"],
  ["a subject of nothing but absent parts", complete({ subject: { issuer: undefined, id: null } }), "subject"],
  ["a subject without issuer", complete({ subject: { id: marker } }), "subject.issuer"],
  ["a subject without id", complete({ subject: { issuer: marker } }), "subject.id"],
  ["an empty id", complete({ subject: subject({ id: "" }) }), "subject.id"],
  ["a number as id", complete({ subject: subject({ id: 7 }) }), "subject.id"],
  ["an empty context", complete({ subject: subject({ context: "" }) }), "subject.context"],
  ["an object as context", complete({ subject: subject({ context: { sid: marker } }) }), "subject.context"],
  ["an empty tenant", complete({ subject: subject({ tenant: "" }) }), "subject.tenant"],
  ["an id with a lone surrogate", complete({ subject: subject({ id: `${marker}\ud83d` }) }), "subject.id"],
  ["an id with a replacement character", complete({ subject: subject({ id: `${marker}\ufffd` }) }), "subject.id"],
  ["an id with a control character", complete({ subject: subject({ id: `${marker}\n` }) }), "subject.id"],
  ["an unknown part of subject", complete({ subject: subject({ sub: marker }) }), "subject.sub"],
  ["claims that are an object", complete({ claims: { access_token: {} } }), "claims"],
  ["claims that are no JSON", complete({ claims: marker }), "claims"],
  ["claims that are a list", complete({ claims: "[]" }), "claims"],
  ["empty claims", complete({ claims: "" }), "claims"],
  ["fromCache as a string", complete({ fromCache: "false" }), "fromCache"],
  ["fromCache as a number", complete({ fromCache: 0 }), "fromCache"],
  ["a resource, which the grant has no parameter for", complete({ resource: "https://mcp.example" }), "resource"],
  ["an audience, which the grant has no parameter for", complete({ audience: ["api://mcp"] }), "audience"],
  ["an actor, whom the grant has no parameter for", complete({ actorToken: marker }), "actorToken"],
  ["an assertion type, which the grant has no parameter for", complete({ assertionType: "urn:x" }), "assertionType"],
  ["a field in another case", complete({ Scopes: marker }), "Scopes"],
  ["the scope of other libraries", complete({ scope: marker }), "scope"],
  ["the name of an MSAL field", complete({ oboAssertion: marker }), "oboAssertion"],
  ["an unknown field that is false", complete({ verbose: false }), "verbose"],
  ["a part of subject outside of it", complete({ "subject.issuer": marker, "subject.id": marker }), "subject.issuer"],
  ["a subject in a subject", complete({ subject: subject({ subject: subject() }) }), "subject.subject"],
  ["an assertion in a subject", complete({ subject: subject({ assertion: marker }) }), "subject.assertion"],
  ["a signal that is none", complete({ signal: {} }), "signal"],
  ["a controller instead of its signal", complete({ signal: new AbortController() }), "signal"],
  ["a string as signal", complete({ signal: marker }), "signal"],
  ["true as signal", complete({ signal: true }), "signal"],
]) {
  test(`${what} is refused`, () => assertRefused(request, field));
}

test("an actor type alone is refused, as the grant has no parameter for it", () =>
  assertRefused(complete({ actorTokenType: "urn:ietf:params:oauth:token-type:access_token" }), "actorTokenType"));

for (const name of ["constructor", "toString", "valueOf", "hasOwnProperty", "isPrototypeOf", "__proto__", "__defineGetter__"]) {
  test(`a field ${name} is unknown, and never taken for the assertion`, async () => {
    // As JSON.parse makes it: an own member, even of the name __proto__.
    const own = (target) => Object.defineProperty(target, name, { value: marker, enumerable: true });
    await assertRefused(own(complete()), name);
    await assertRefused(complete({ subject: own(subject()) }), `subject.${name}`);
  });
}

test("a string, a number or a list instead of a request is refused", async () => {
  const exchanger = new TokenExchanger(completeOptions());
  for (const request of [marker, 7, true, [], [marker], () => marker, Symbol(marker)]) {
    const error = await failureOf(exchanger.exchange(request));
    assert.equal(error.reason, "invalid_request");
    assertNothingShows([error], [marker]);
  }
});

test("what is refused is a rejection, never an exception", async () => {
  const exchanger = new TokenExchanger(completeOptions());
  const throwing = Object.defineProperty({}, "assertion", { get: () => assert.fail("thrown"), enumerable: true });
  for (const request of [null, {}, throwing, complete({ signal: 7 })]) {
    for (const method of ["exchange", "evict"]) {
      const promise = exchanger[method](request);
      assert.ok(promise instanceof Promise);
      await assert.rejects(promise);
    }
  }
});

test("fields that are null count as left out", async () => {
  const absent = { assertionType: null, actorToken: null, actorTokenType: null, subject: null, resource: null, audience: null, claims: null, fromCache: null, signal: null };
  const request = complete(absent);
  const { exchanger } = await assertAnswered(request);
  assert.equal((await exchanger.exchange({ assertion: request.assertion, scopes: scope })).source, "memory");
});

test("fields that are undefined count as left out", async () => {
  const absent = { assertionType: undefined, subject: undefined, resource: undefined, claims: undefined, fromCache: undefined, signal: undefined };
  await assertAnswered(complete({ ...absent, subject: { ...subject(), tenant: undefined, context: null } }));
});

test("a request may have no prototype, be frozen, come from another realm or be an instance of a class", async () => {
  await assertAnswered(Object.assign(Object.create(null), complete({ subject: Object.assign(Object.create(null), subject()) })));
  await assertAnswered(Object.freeze(complete({ scopes: Object.freeze([scope]) })));
  const foreign = runInNewContext("(assertion, scope) => ({ assertion, scopes: [scope], subject: { issuer: 'i', id: 'u' } })");
  await assertAnswered(foreign(unsignedToken(), scope));
  class Request {
    assertion = unsignedToken();
    scopes = scope;
  }
  await assertAnswered(new Request());
});

test("a field that only an accessor, a prototype or a hidden member has is refused, and not dropped", async () => {
  class Subject {
    issuer = "https://login.example";
    id = "ada";
    get tenant() {
      return marker;
    }
  }
  await assertRefused(complete({ subject: new Subject() }), "subject.tenant");
  class Request {
    assertion = unsignedToken();
    scopes = scope;
    get actorToken() {
      return marker;
    }
  }
  await assertRefused(new Request(), "actorToken");
  for (const field of ["assertion", "scopes", "resource", "audience", "claims", "actorToken", "subject", "fromCache", "signal"]) {
    const inherited = Object.create({ [field]: marker });
    for (const [name, value] of Object.entries(complete())) if (name !== field) inherited[name] = value;
    await assertRefused(inherited, field);
    await assertRefused(Object.defineProperty(complete(), field, { value: marker, enumerable: false }), field);
  }
  for (const field of ["tenant", "context"]) {
    await assertRefused(complete({ subject: Object.assign(Object.create({ [field]: marker }), subject()) }), `subject.${field}`);
    const foreign = runInNewContext(`(class { issuer = "i"; id = "u"; get ${field}() { return "${marker}"; } })`);
    await assertRefused(complete({ subject: new foreign() }), `subject.${field}`);
  }
});

test("what somebody hung onto the prototype of all objects is no field, and what a field hides is none either", async () => {
  Object.prototype.subject = subject({ tenant: marker });
  Object.prototype.tenant = marker;
  try {
    await assertAnswered(complete());
    await assertAnswered(complete({ subject: subject() }));
  } finally {
    delete Object.prototype.subject;
    delete Object.prototype.tenant;
  }
  const request = Object.assign(Object.create({ scopes: "another", unknown: 7 }), complete());
  assert.equal((await assertAnswered(request)).form.get("scope"), scope);
});

test("fields with symbols as names, and those that are not enumerable, are nobody's", async () => {
  const request = complete({ [Symbol("trace")]: marker });
  Object.defineProperty(request, "hidden", { value: marker, enumerable: false });
  await assertAnswered(request);
});

test("an assertion of 64 KiB is exchanged whole", async () => {
  const assertion = "a".repeat(65_536 - 24) + "the-end-of-the-assertion";
  const { form } = await assertAnswered({ assertion, scopes: scope });
  assert.equal(form.get("assertion"), assertion);
});

test("fields that need escaping arrive as they were sent", async () => {
  const assertion = "a+b/c=d&e%20f;g~h'i(j)*k!l";
  const scopes = "api://mcp-files/a+b%20&c=d?e#f";
  const claims = JSON.stringify({ text: "\u00e4 \u{1f511} & = + %" });
  const { form } = await assertAnswered({ assertion, scopes, claims });
  assert.deepEqual([form.get("assertion"), form.get("scope"), form.get("claims")], [assertion, scopes, claims]);
});

test("an error about one field is not that of an earlier call", async () => {
  const { fetch } = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  const request = complete({ subject: subject(), claims: "{}" });
  await exchanger.exchange(request);
  assert.equal((await failureOf(exchanger.exchange({ scopes: scope }))).field, "assertion");
  assert.equal((await failureOf(exchanger.exchange({ assertion: request.assertion }))).field, "scopes");
  assert.equal((await failureOf(exchanger.exchange({ ...request, unknown: 1 }))).field, "unknown");
  assert.equal((await exchanger.exchange(request)).source, "memory");
});

test("a field whose getter throws is refused by its name", async () => {
  const throwing = { get: () => assert.fail(marker), enumerable: true };
  for (const name of ["assertion", "scopes", "claims", "fromCache", "signal", "subject"]) {
    await assertRefused(Object.defineProperty(complete(), name, throwing), name);
  }
  for (const name of ["issuer", "id", "context"]) {
    await assertRefused(complete({ subject: Object.defineProperty(subject(), name, throwing) }), `subject.${name}`);
  }
  await assertRefused(complete({ scopes: Object.defineProperty([scope], 1, throwing) }), "scopes");
});

test("a getter that throws a RangeError costs nobody the cache", async () => {
  const { fetch } = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  const request = complete();
  await exchanger.exchange(request);
  const ranged = Object.defineProperty(complete(), "assertion", { get: () => new Array(-1), enumerable: true });
  await assert.rejects(exchanger.exchange(ranged));
  await assert.rejects(exchanger.evict(ranged));
  assert.equal((await exchanger.exchange(request)).source, "memory");
});

test("a getter that calls the exchanger itself mixes up nothing", async () => {
  const { fetch } = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  const inner = complete({ subject: subject({ id: "grace" }) });
  const outer = { assertion: unsignedToken() };
  let nested;
  Object.defineProperty(outer, "scopes", {
    enumerable: true,
    get() {
      nested ??= exchanger.exchange(inner);
      return scope;
    },
  });
  const token = await exchanger.exchange(outer);
  assert.equal(token.accessToken, tokenFor(outer.assertion));
  assert.equal((await nested).accessToken, tokenFor(inner.assertion));
  assert.deepEqual([exchanger.stats.tokenRequests, exchanger.stats.takeovers], [2, 0]);
});

test("what is changed in a request while it waits changes nothing", async () => {
  const mine = unsignedToken();
  const rejected = unsignedToken();
  const { fetch } = tokenEndpoint(async (form) => {
    await new Promise((resolve) => setTimeout(resolve, 10));
    return form.get("assertion") === rejected ? Response.json({ error: "invalid_grant" }, { status: 400 }) : undefined;
  });
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  // It joins an exchange of the same subject that fails because of its assertion, so it begins anew.
  const leader = failureOf(exchanger.exchange({ assertion: rejected, scopes: scope, subject: subject() }));
  const request = { assertion: mine, scopes: scope, subject: subject() };
  const answer = exchanger.exchange(request);
  request.assertion = unsignedToken();
  request.subject = subject({ id: "grace" });
  assert.equal((await leader).reason, "assertion_rejected");
  assert.equal((await answer).accessToken, tokenFor(mine));
});

test("a field of megabytes is refused without keeping its room", async () => {
  const exchanger = new TokenExchanger(completeOptions());
  await failureOf(exchanger.exchange({}));
  const size = () => initSync({}).memory.buffer.byteLength;
  const before = size();
  for (const request of [complete({ assertion: "a".repeat(16_000_000) }), complete({ scopes: ["s".repeat(16_000_000)] })]) {
    assert.equal((await failureOf(exchanger.exchange(request))).reason, "invalid_request");
  }
  assert.ok(size() - before < 2_000_000, `the wasm memory grew by ${size() - before} bytes for good`);
});

test("a long list is sent whole or refused, never cut", async () => {
  const repeated = [...Array.from({ length: 70 }, () => scope), "the-last-one"];
  const { fetch, requests } = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  const outcome = await exchanger.exchange(complete({ scopes: repeated })).catch((error) => error.field);
  if (outcome !== "scopes") assert.equal(requests[0].form.get("scope"), `${scope} the-last-one`);
});

test("a list of a million elements is refused in time", async () => {
  const started = Date.now();
  const exchanger = new TokenExchanger(completeOptions());
  const error = await failureOf(exchanger.exchange(complete({ scopes: Array.from({ length: 1_000_000 }, (_, index) => `s${index}`) })));
  assert.equal(error.field, "scopes");
  assert.ok(Date.now() - started < 2000, `it took ${Date.now() - started} ms`);
});

test("a context that is none does no harm", async () => {
  for (const context of [null, {}, { waitUntil: 7 }, "ctx", { waitUntil: () => assert.fail("no request is running") }]) {
    const { fetch } = tokenEndpoint();
    const exchanger = new TokenExchanger(completeOptions({ fetch }));
    const request = complete();
    assert.equal((await exchanger.exchange(request, context)).accessToken, tokenFor(request.assertion));
  }
});

test("waitUntil is given promises that never reject, called as a method of its context", async () => {
  const context = {
    promises: [],
    waitUntil(promise) {
      assert.equal(this, context);
      this.promises.push(promise);
    },
  };
  const { fetch } = tokenEndpoint(() => Response.json({ error: "invalid_grant" }, { status: 400 }));
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  await failureOf(exchanger.exchange(complete(), context));
  assert.ok(context.promises.length >= 1);
  await Promise.all(context.promises);
});
