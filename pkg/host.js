// TokenExchanger: callers that wait, their signals, and recovery. What to do is the core's to say.
import { InstanceLost, anchor, currentEpoch, encode, guarded, living, wasm } from "./instance.js";

/** The fields of a request by the core's numbers (`RequestField`). */
const FIELDS = { assertion: 0, assertionType: 1, actorToken: 2, actorTokenType: 3, scopes: 4, resource: 5, audience: 6, claims: 7 };
const SUBJECT_FIELDS = { issuer: 8, tenant: 9, id: 10, context: 11 };
const LISTS = new Set(["scopes", "resource", "audience"]);

/** The options that are objects of the host; all others go to the core. */
const HOST_OPTIONS = new Set(["store", "fetch", "onEvent"]);

const { Answer, Fail, Lead } = wasm.Next;

/** What ends a wait, by the core's numbers. */
const RANG = 0;
const TIMED_OUT = 1;
const ORPHANED = 2;
const ABORTED = 3;

/** How often a call begins anew because the wasm instance broke under it. */
const MAX_REBIRTHS = 2;

export class ExchangeError extends Error {
  constructor(failure) {
    super(failure.message);
    Object.assign(this, failure);
    this.name = "ExchangeError";
  }
}

export class TokenExchanger {
  #host;
  /** The wasm half, made anew where the instance that it was part of has broken. */
  #living;
  /** One bell for each flight: a promise that resolves with nothing when the outcome stands in the table. */
  #bells = new Map();

  constructor(options) {
    const plain = {};
    for (const [name, value] of Object.entries(options ?? {})) {
      if (HOST_OPTIONS.has(name)) continue;
      if (typeof value === "function" || typeof value === "symbol") throw misconfigured(name, "must be made of plain values");
      plain[name] = value;
    }
    const json = asJson(plain);
    const host = hostOf(options ?? {});
    this.#host = host;
    this.#living = living(() => {
      this.#bells.clear();
      return new wasm.Core(json, host);
    }, (failure) => new ExchangeError(failure));
  }

  async exchange(request, ctx) {
    let call;
    let wake;
    for (let births = 0; ; ) {
      try {
        const core = this.#living();
        // What this call waited for is lost with the instance that it was part of.
        if (call?.epoch !== currentEpoch()) call = undefined;
        const next = guarded(() => this.#next(core, request, call, wake));
        if (next === Answer) return this.#answer(core);
        if (next === Fail) throw this.#failure(core);
        if (next === Lead) this.#lead(core, ctx);
        call = guarded(() => callOf(core));
      } catch (error) {
        if (!(error instanceof InstanceLost)) throw error;
        births += 1;
        if (births > MAX_REBIRTHS) throw instanceLost();
        continue;
      }
      wake = await wait(this.#bells.get(call.generation), call.wait, request?.signal);
    }
  }

  async evict(request) {
    const core = this.#living();
    try {
      await guarded(() => {
        describe(core, request);
        return core.evict();
      });
    } catch (failure) {
      throw failure instanceof InstanceLost ? instanceLost() : new ExchangeError(failure);
    }
  }

  get stats() {
    const core = this.#living();
    return guarded(() => core.stats());
  }

  #next(core, request, call, wake) {
    describe(core, request);
    if (request?.signal?.aborted) wake = ABORTED;
    else if (call === undefined) return core.begin();
    return core.wake(wake, call?.deadline ?? 0, call?.generation ?? 0, call?.due ?? 0, call?.takeovers ?? 0, call?.leads ?? false);
  }

  #lead(core, ctx) {
    const keep = (promise) => anchor(promise, ctx);
    const bell = guarded(() => core.fly(keep));
    keep(bell);
    // The core's table forgets its oldest flights; so do we.
    const oldest = core.oldest_generation();
    for (const generation of this.#bells.keys()) {
      if (generation >= oldest) break;
      this.#bells.delete(generation);
    }
    this.#bells.set(core.generation(), bell);
  }

  #answer(core) {
    const token = guarded(() => {
      const token = {
        accessToken: core.access_token(),
        tokenType: core.token_type(),
        expiresAt: core.expires_at(),
        scope: core.scope(),
        source: core.source(),
      };
      const issuedTokenType = core.issued_token_type();
      if (issuedTokenType !== undefined) token.issuedTokenType = issuedTokenType;
      return token;
    });
    if (this.#host.onEvent) core.report();
    return token;
  }

  #failure(core) {
    const error = new ExchangeError(guarded(() => core.failure()));
    if (this.#host.onEvent) core.report();
    return error;
  }
}

/** The call's own numbers, and how long it waits. */
function callOf(core) {
  const wait = core.wait_ms();
  return {
    epoch: currentEpoch(),
    wait,
    deadline: core.deadline(),
    generation: core.generation(),
    due: core.due(),
    takeovers: core.takeovers(),
    leads: core.leads(),
  };
}

/** Describes the request to the core, field by field. */
function describe(core, request) {
  core.describe(request?.fromCache !== false);
  for (const name in request) {
    const value = request[name];
    if (value === undefined || value === null || name === "signal") continue;
    const number = FIELDS[name];
    if (typeof value === "string" && number !== undefined) core.field(number, encode(value));
    else if (LISTS.has(name) && Array.isArray(value)) {
      for (const element of value) text(core, number, name, element);
    } else if (name === "subject" && typeof value === "object") subject(core, value);
    else if (number !== undefined) core.wrong_field(name, "must be a string");
    else if (name === "fromCache") {
      if (typeof value !== "boolean") core.wrong_field(name, "must be a boolean");
    } else if (name === "subject") core.wrong_field(name, "must be an object");
    else core.wrong_field(name, "is not a known field");
  }
}

function subject(core, value) {
  let empty = true;
  for (const name in value) {
    if (value[name] === undefined || value[name] === null) continue;
    empty = false;
    if (name in SUBJECT_FIELDS) text(core, SUBJECT_FIELDS[name], `subject.${name}`, value[name]);
    else core.wrong_field(`subject.${name}`, "is not a known field");
  }
  if (empty) core.wrong_field("subject", "must name an issuer and an id");
}

function text(core, number, name, value) {
  if (typeof value === "string") core.field(number, encode(value));
  else core.wrong_field(name, "must be a string");
}

/**
 * Waits for the bell, the time or the caller's signal, whichever is first. The timer is the caller's own: a
 * bell whose request has ended may never ring.
 */
function wait(bell, milliseconds, signal) {
  if (bell === undefined) return ORPHANED;
  return new Promise((resolve) => {
    const end = (how) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      resolve(how);
    };
    const abort = () => end(ABORTED);
    const timer = setTimeout(end, milliseconds, TIMED_OUT);
    signal?.addEventListener("abort", abort);
    // It never rejects on purpose, so a rejection means that its request has ended.
    bell.then(
      () => end(RANG),
      () => end(ORPHANED),
    );
  });
}

/** The operator's own objects, as the core's driver calls them. */
function hostOf({ store, fetch, onEvent }) {
  store ??= undefined;
  const has = (object, method) => typeof object?.[method] === "function";
  if (store !== undefined && !(has(store, "get") && has(store, "put") && has(store, "delete"))) {
    throw misconfigured("store", "must have the methods get, put and delete");
  }
  if (onEvent != null && typeof onEvent !== "function") throw misconfigured("onEvent", "must be a function");
  if (fetch != null && typeof fetch !== "function" && !has(fetch, "fetch")) {
    throw misconfigured("fetch", "must be a function, or a binding with a method fetch");
  }
  const send = fetch == null || typeof fetch === "function" ? fetch : (url, init) => fetch.fetch(url, init);
  return {
    store,
    onEvent: onEvent ?? undefined,
    // The global one is looked up at each call, and called as a plain function.
    fetch: (url, init) => (send ?? globalThis.fetch)(url, init),
  };
}

function asJson(options) {
  try {
    return JSON.stringify(options);
  } catch {
    throw misconfigured("options", "must be made of plain values");
  }
}

function misconfigured(field, problem) {
  return new ExchangeError({ reason: "misconfigured", message: `${field} ${problem}`, retryable: false, field });
}

function instanceLost() {
  return new ExchangeError({ reason: "unavailable", message: "the WebAssembly instance broke and was replaced", retryable: true });
}
