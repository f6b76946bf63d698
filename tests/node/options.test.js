// What an exchanger refuses to be made of. Every error names the option, and none quotes a value.
import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import { TokenExchanger } from "obo-edge";
import { MapStore, clientSecret, completeOptions, described, newStoreSecret, scope, thrownBy, tokenEndpoint, unsignedToken } from "./support.js";

const secretMarker = "hunter2";

/** Checks that these options are refused, and that the error names `field`. */
function assertRefused(options, field) {
  const error = thrownBy(() => new TokenExchanger(options));
  const { message, ...rest } = described(error);
  assert.deepEqual(rest, { name: "ExchangeError", reason: "misconfigured", retryable: false, field });
  assert.ok(message.startsWith(`${field} `), `${message} does not begin with ${field}`);
  assert.ok(!message.includes(secretMarker) && !error.stack.includes(secretMarker), "the message quotes a value");
  return error;
}

function without(name) {
  const { [name]: _, ...rest } = completeOptions();
  return rest;
}

const authentication = (members) => ({ clientAuthentication: { method: "client_secret_post", clientSecret, ...members } });

for (const [what, options, field] of [
  ["tokenEndpoint left out", without("tokenEndpoint"), "tokenEndpoint"],
  ["clientId left out", without("clientId"), "clientId"],
  ["clientAuthentication left out", without("clientAuthentication"), "clientAuthentication"],
  ["an empty tokenEndpoint", completeOptions({ tokenEndpoint: "" }), "tokenEndpoint"],
  ["an empty clientId", completeOptions({ clientId: "" }), "clientId"],
  ["a blank clientId", completeOptions({ clientId: "  " }), "clientId"],
  ["a number as clientId", completeOptions({ clientId: 7 }), "clientId"],
  ["a list as clientId", completeOptions({ clientId: ["gateway"] }), "clientId"],
  ["a string as clientAuthentication", completeOptions({ clientAuthentication: secretMarker }), "clientAuthentication"],
  ["a list as clientAuthentication", completeOptions({ clientAuthentication: [] }), "clientAuthentication"],
  ["an unknown client authentication", completeOptions(authentication({ method: secretMarker })), "clientAuthentication.method"],
  ["client authentication without a method", completeOptions(authentication({ method: undefined })), "clientAuthentication.method"],
  ["no clientSecret", completeOptions(authentication({ clientSecret: undefined })), "clientAuthentication.clientSecret"],
  ["an empty clientSecret", completeOptions(authentication({ clientSecret: "" })), "clientAuthentication.clientSecret"],
  ["a number as clientSecret", completeOptions(authentication({ clientSecret: 7 })), "clientAuthentication.clientSecret"],
  ["a member that client authentication has not", completeOptions(authentication({ secret: secretMarker })), "clientAuthentication.secret"],
  ["an unknown grant", completeOptions({ grant: "password" }), "grant"],
  ["a grant that needs a second server", completeOptions({ grant: "identity-assertion" }), "resourceAuthorizationServer"],
  ["a time-out too short", completeOptions({ timeoutMs: 999 }), "timeoutMs"],
  ["a time-out too long", completeOptions({ timeoutMs: 25_001 }), "timeoutMs"],
  ["a time-out of part of a millisecond", completeOptions({ timeoutMs: 1000.5 }), "timeoutMs"],
  ["a time-out as text", completeOptions({ timeoutMs: "10000" }), "timeoutMs"],
  ["a negative time-out", completeOptions({ timeoutMs: -1 }), "timeoutMs"],
  ["a time-out that is not a number", completeOptions({ timeoutMs: Number.NaN }), "timeoutMs"],
  ["a time-out without an end", completeOptions({ timeoutMs: Number.POSITIVE_INFINITY }), "timeoutMs"],
  ["a lifetime too long", completeOptions({ maxLifetimeMs: 86_400_001 }), "maxLifetimeMs"],
  ["a lifetime of nothing", completeOptions({ maxLifetimeMs: 0 }), "maxLifetimeMs"],
  ["a lifetime without an end", completeOptions({ maxLifetimeMs: Number.POSITIVE_INFINITY }), "maxLifetimeMs"],
  ["a number as retry", completeOptions({ retry: 3 }), "retry"],
  ["false as retry", completeOptions({ retry: false }), "retry"],
  ["no attempts", completeOptions({ retry: { attempts: 0 } }), "retry.attempts"],
  ["too many attempts", completeOptions({ retry: { attempts: 6 } }), "retry.attempts"],
  ["attempts that are not a number", completeOptions({ retry: { attempts: Number.NaN } }), "retry.attempts"],
  ["a delay too long", completeOptions({ retry: { delayMs: 5001 } }), "retry.delayMs"],
  ["a member that retry has not", completeOptions({ retry: { delay: 1 } }), "retry.delay"],
  ["an option in another case", completeOptions({ clientID: "gateway" }), "clientID"],
  ["an option of another library", completeOptions({ client_id: "gateway" }), "client_id"],
  ["an unknown option that is false", completeOptions({ verbose: false }), "verbose"],
  ["an option with the name of a method of every object", completeOptions({ toString: "x" }), "toString"],
  ["a store without delete", completeOptions({ store: { get() {}, put() {} }, storeSecrets: newStoreSecret() }), "store"],
  ["a Map as a store", completeOptions({ store: new Map(), storeSecrets: newStoreSecret() }), "store"],
  ["a string as a store", completeOptions({ store: "KV", storeSecrets: newStoreSecret() }), "store"],
  ["false as a store", completeOptions({ store: false }), "store"],
  ["a store without secrets", completeOptions({ store: new MapStore() }), "storeSecrets"],
  ["a store with no secret in the list", completeOptions({ store: new MapStore(), storeSecrets: [] }), "storeSecrets"],
  ["an empty store secret", completeOptions({ store: new MapStore(), storeSecrets: "" }), "storeSecrets"],
  ["a store secret too short", completeOptions({ store: new MapStore(), storeSecrets: Buffer.alloc(31).toString("base64") }), "storeSecrets"],
  ["a store secret that is no base64", completeOptions({ store: new MapStore(), storeSecrets: `${secretMarker}!`.repeat(9) }), "storeSecrets"],
  ["one bad store secret among good ones", completeOptions({ store: new MapStore(), storeSecrets: [newStoreSecret(), secretMarker] }), "storeSecrets"],
  ["a hole in the list of store secrets", completeOptions({ store: new MapStore(), storeSecrets: [newStoreSecret(), undefined] }), "storeSecrets"],
  ["five store secrets", completeOptions({ store: new MapStore(), storeSecrets: Array.from({ length: 5 }, newStoreSecret) }), "storeSecrets"],
  ["bytes as a store secret", completeOptions({ store: new MapStore(), storeSecrets: new Uint8Array(32) }), "storeSecrets"],
  ["a store secret that is wrong without a store", completeOptions({ storeSecrets: secretMarker }), "storeSecrets"],
  ["a string as onEvent", completeOptions({ onEvent: "console.log" }), "onEvent"],
  ["an object as onEvent", completeOptions({ onEvent: {} }), "onEvent"],
  ["a URL as fetch", completeOptions({ fetch: "https://proxy.example" }), "fetch"],
  ["an object without fetch as fetch", completeOptions({ fetch: {} }), "fetch"],
]) {
  test(`${what} is refused`, () => void assertRefused(options, field));
}

for (const [what, url] of [
  ["plain http to a remote host", "http://login.example/token"],
  ["plain http to a host that begins like a loopback address", "http://127.0.0.1.login.example/token"],
  ["plain http to a host that ends like localhost", "http://evil-localhost/token"],
  ["userinfo", `https://user:${secretMarker}@login.example/token`],
  ["a user alone", `https://${secretMarker}@login.example/token`],
  ["a backslash", "https:\\\\login.example\\token"],
  ["a backslash before an at", "https://login.example\\@evil.example/token"],
  ["a tab", "https://login.\texample/token"],
  ["a line break", "https://login.example/to\nken"],
  ["a space before it", " https://login.example/token"],
  ["a space after it", "https://login.example/token "],
  ["a fragment", "https://login.example/token#part"],
  ["an empty fragment", "https://login.example/token#"],
  ["another scheme", "ftp://login.example/token"],
  ["a script", "javascript:alert(1)"],
  ["data", "data:application/json,{}"],
  ["a file", "file:///etc/passwd"],
  ["no scheme", "login.example/token"],
  ["no host", "https:///"],
  ["a path alone", "/token"],
  ["letters outside ASCII", "https://login.ex\u00e4mple/token"],
  ["a port that is none", "https://login.example:99999/token"],
]) {
  for (const field of ["tokenEndpoint", "issuer"]) {
    test(`${field} with ${what} is refused`, () => void assertRefused(completeOptions({ [field]: url }), field));
  }
}

test("the token endpoint is fetched as it was checked, in its canonical form", async () => {
  for (const [written, fetched] of [
    ["https://LOGIN.example:443/a/../token", "https://login.example/token"],
    ["http://LOCALHOST:8080/token", "http://localhost:8080/token"],
    ["http://127.1:80/token", "http://127.0.0.1/token"],
    ["http://[::1]:9/token?p=B2C_1", "http://[::1]:9/token?p=B2C_1"],
  ]) {
    const { fetch, requests } = tokenEndpoint();
    const exchanger = new TokenExchanger(completeOptions({ tokenEndpoint: written, fetch }));
    await exchanger.exchange({ assertion: unsignedToken(), scopes: scope });
    assert.equal(requests[0].url, fetched);
  }
});

for (const [what, value] of [
  ["a function", () => secretMarker],
  ["a class", class {}],
  ["a symbol", Symbol(secretMarker)],
  ["a bigint", 5000n],
]) {
  for (const name of ["tokenEndpoint", "issuer", "clientId", "clientAuthentication", "grant", "storeSecrets", "retry", "timeoutMs", "unknown"]) {
    test(`${what} as ${name} is refused`, () => void assertRefused(completeOptions({ [name]: value }), name));
  }
  test(`${what} as clientSecret is refused`, () => {
    const error = thrownBy(() => new TokenExchanger(completeOptions(authentication({ clientSecret: value }))));
    assert.equal(error.reason, "misconfigured");
    assert.match(error.field, /^clientAuthentication(\.clientSecret)?$/);
  });
  test(`${what} as an unknown member of retry is refused`, () => {
    const error = thrownBy(() => new TokenExchanger(completeOptions({ retry: { attempts: 1, onRetry: value } })));
    assert.equal(error.reason, "misconfigured");
    assert.match(error.field, /^retry(\.onRetry)?$/);
  });
}

test("an option that contains itself is refused by its name", () => {
  for (const name of ["clientAuthentication", "retry", "storeSecrets", "unknown"]) {
    const cycle = name === "storeSecrets" ? [] : { method: "client_secret_post", clientSecret };
    if (Array.isArray(cycle)) cycle.push(cycle);
    else cycle.self = cycle;
    const error = thrownBy(() => new TokenExchanger(completeOptions({ [name]: cycle })));
    assert.equal(error.reason, "misconfigured");
    assert.ok(error.field === name || error.field === `${name}.self`, `${error.field} does not name ${name}`);
    assert.ok(!error.message.includes(secretMarker));
  }
});

test("an option that is nested without end is refused", () => {
  for (const depth of [500, 100_000]) {
    let deep = {};
    for (let level = 0; level < depth; level += 1) deep = { deep };
    const error = thrownBy(() => new TokenExchanger(completeOptions({ retry: deep })));
    assert.equal(error.reason, "misconfigured");
    // Too deep to be read at all, it is nobody's in particular.
    assert.match(error.field, /^(retry|options)/);
  }
});

test("an option with a lone surrogate is refused by its name", () => {
  for (const name of ["tokenEndpoint", "clientId", "grant"]) assertRefused(completeOptions({ [name]: "gate\ud800way" }), name);
  const error = thrownBy(() => new TokenExchanger(completeOptions(authentication({ clientSecret: `${secretMarker}\udc00` }))));
  assert.equal(error.field, "clientAuthentication.clientSecret");
  assert.ok(!error.message.includes(secretMarker));
});

test("an option whose getter throws is refused by its name", () => {
  const throwing = { get: () => assert.fail(secretMarker), enumerable: true };
  for (const name of ["tokenEndpoint", "clientId", "timeoutMs", "store", "fetch", "onEvent"]) {
    assertRefused(Object.defineProperty(completeOptions(), name, throwing), name);
  }
  const nested = Object.defineProperty({ method: "client_secret_post" }, "clientSecret", throwing);
  const error = thrownBy(() => new TokenExchanger(completeOptions({ clientAuthentication: nested })));
  assert.match(error.field, /^clientAuthentication/);
  assert.ok(!error.message.includes(secretMarker));
});

test("an option whose getter throws a RangeError costs no other exchanger its tokens", async () => {
  const { fetch } = tokenEndpoint();
  const exchanger = new TokenExchanger(completeOptions({ fetch }));
  await exchanger.exchange({ assertion: unsignedToken(), scopes: scope });
  for (const name of ["clientId", "store"]) {
    const options = Object.defineProperty(completeOptions(), name, { get: () => new Array(-1), enumerable: true });
    assert.throws(() => new TokenExchanger(options));
  }
  assert.equal(exchanger.stats.memoryEntries, 1);
});

for (const [what, options] of [["null", null], ["undefined", undefined], ["a string", "https://login.example"], ["a number", 7], ["a list", []], ["a function", () => {}]]) {
  test(`${what} instead of options is refused`, () => {
    const error = thrownBy(() => new TokenExchanger(options));
    assert.equal(error.reason, "misconfigured");
    assert.match(error.field, /^(options|tokenEndpoint)$/);
  });
}

test("options that are null count as left out", () => {
  const nothing = { issuer: null, grant: null, store: null, storeSecrets: null, fetch: null, retry: null, timeoutMs: null, maxLifetimeMs: null, onEvent: null };
  assert.ok(new TokenExchanger(completeOptions(nothing)));
  const absent = Object.fromEntries(Object.keys(nothing).map((name) => [name, undefined]));
  assert.ok(new TokenExchanger(completeOptions(absent)));
  assert.ok(new TokenExchanger(completeOptions({ retry: { attempts: null, delayMs: undefined } })));
});

test("options may come from an object without prototype, from another realm, or frozen", () => {
  assert.ok(new TokenExchanger(Object.assign(Object.create(null), completeOptions())));
  assert.ok(new TokenExchanger(Object.freeze(completeOptions())));
  const foreign = runInNewContext("(options) => ({ ...options, clientAuthentication: { ...options.clientAuthentication } })");
  assert.ok(new TokenExchanger(foreign(completeOptions())));
});

test("options may be an instance of a class with fields", () => {
  class Options {
    tokenEndpoint = "https://login.example/token";
    clientId = "gateway";
    clientAuthentication = { method: "client_secret_post", clientSecret };
  }
  assert.ok(new TokenExchanger(new Options()));
});

test("an option that only an accessor, a prototype or a hidden member has is refused, and not dropped", () => {
  for (const name of ["fetch", "store", "onEvent", "grant", "timeoutMs", "storeSecrets", "inspectAssertion", "tokenEndpoint"]) {
    assertRefused(Object.assign(Object.create({ [name]: secretMarker }), without(name)), name);
    assertRefused(Object.defineProperty(without(name), name, { value: secretMarker, enumerable: false }), name);
  }
  class Options {
    constructor() {
      Object.assign(this, without("grant"));
    }
    get grant() {
      return "token-exchange";
    }
  }
  assertRefused(new Options(), "grant");
  class Retry {
    get attempts() {
      return 1;
    }
  }
  assertRefused(completeOptions({ retry: new Retry() }), "retry");
});

test("what somebody hung onto the prototype of all objects is no option", () => {
  Object.prototype.timeoutMs = -1;
  try {
    assert.ok(new TokenExchanger(completeOptions()));
  } finally {
    delete Object.prototype.timeoutMs;
  }
});

test("an option that JSON can smuggle in as a prototype is refused like any unknown one", () => {
  const smuggled = JSON.parse('{"__proto__": {"timeoutMs": 1}}');
  const options = completeOptions();
  Object.defineProperty(options, "__proto__", { value: smuggled.__proto__, enumerable: true });
  assertRefused(options, "__proto__");
});

test("what is changed in the options later changes nothing", async () => {
  const { fetch, requests } = tokenEndpoint();
  const options = completeOptions({ fetch });
  const exchanger = new TokenExchanger(options);
  options.clientId = "another";
  options.clientAuthentication.clientSecret = "another";
  options.fetch = () => assert.fail("a fetch that was given later");
  await exchanger.exchange({ assertion: unsignedToken(), scopes: scope });
  assert.equal(requests[0].form.get("client_id"), "gateway");
  assert.equal(requests[0].form.get("client_secret"), clientSecret);
});

test("an exchanger shows nothing of its options when it is printed", async () => {
  const { inspect } = await import("node:util");
  const exchanger = new TokenExchanger(completeOptions());
  for (const text of [inspect(exchanger, { depth: 9, showHidden: true }), JSON.stringify(exchanger), String(exchanger)]) {
    assert.ok(!text.includes(secretMarker));
  }
});

test("an exchanger that is called without new is an ordinary error", () => {
  assert.throws(() => TokenExchanger(completeOptions()), TypeError);
});

test("without a fetch the global one is looked up at each call", async (context) => {
  const { fetch, requests } = tokenEndpoint();
  const options = completeOptions();
  delete options.fetch;
  const exchanger = new TokenExchanger(options);
  const original = globalThis.fetch;
  context.after(() => void (globalThis.fetch = original));
  globalThis.fetch = function (...parameters) {
    assert.ok(this === undefined || this === globalThis, "workerd refuses an illegal invocation");
    return fetch(...parameters);
  };
  await exchanger.exchange({ assertion: unsignedToken(), scopes: scope });
  assert.equal(requests.length, 1);
});
