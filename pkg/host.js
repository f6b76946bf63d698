// TokenExchanger: callers that wait, their signals, and recovery. What to do is the core's to say.
import { Client, isPlain } from "./client.js";
import { InstanceLost, anchor, currentEpoch, encode, guarded, living, wasm } from "./instance.js";

/** The fields of a request by the core's numbers (`RequestField`); those of `subject` have its name before theirs. */
const FIELDS = new Map(
  ["assertion", "assertionType", "actorToken", "actorTokenType", "scopes", "resource", "audience", "claims"]
    .concat(["subject.issuer", "subject.tenant", "subject.id", "subject.context"])
    .map((name, number) => [name, number]),
);
const LISTS = new Set(["scopes", "resource", "audience"]);
/** How many elements of a list are handed to the core, which takes as many different ones. */
const MAX_LIST_LENGTH = 64;
/** The fields that are no text. */
const KINDS = new Map([
  ["subject", "an object"],
  ["fromCache", "a boolean"],
  ["signal", "an AbortSignal"],
]);

/** The options that are objects of the host; all others go to the core. */
const HOST_OPTIONS = new Set(["store", "fetch", "onEvent"]);

const { Answer, Fail, Lead } = wasm.Next;

/** What ends a wait, by the core's numbers. */
const RANG = 0;
const TIMED_OUT = 1;
const ORPHANED = 2;
const ABORTED = 3;

/** How often a caller that waits looks whether its instance is still there, in milliseconds. */
const WATCH_MS = 500;

/** How long an eviction may take, in milliseconds. */
const EVICT_MS = 5500;

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
    const { json, host } = readOptions(options);
    this.#host = host;
    this.#living = living(() => {
      this.#bells.clear();
      return new wasm.Core(json, host);
    }, (failure) => new ExchangeError(failure));
  }

  async exchange(request, ctx) {
    // Read once, before anything else: what the caller changes later, or what its getters do, mixes up nothing.
    const described = read(request);
    const { signal } = described;
    let call;
    let wake;
    let deadline;
    for (let births = 0; ; ) {
      try {
        const core = this.#living();
        // What this call waited for is lost with the instance that it was part of.
        if (call?.epoch !== currentEpoch()) call = undefined;
        if (signal?.aborted) wake = ABORTED;
        const next = guarded(() =>
          call || wake === ABORTED ? resume(core, described, call, wake) : begin(core, described, deadline),
        );
        if (next === Answer) return this.#report(core, guarded(() => answer(core)));
        if (next === Fail) throw this.#report(core, new ExchangeError(guarded(() => core.failure())));
        const keep = (promise) => anchor(promise, ctx);
        const bell = next === Lead ? guarded(() => core.fly(keep)) : undefined;
        call = guarded(() => callOf(core));
        deadline = call.deadline;
        // What the core said has been read: a context or a listener may call back from here on.
        if (bell) this.#hang(bell, call.generation, guarded(() => core.oldest_generation()));
        if (bell) keep(bell);
        this.#report(core);
      } catch (error) {
        if (!(error instanceof InstanceLost)) throw error;
        births += 1;
        if (births > MAX_REBIRTHS) throw instanceLost();
        continue;
      }
      wake = await wait(this.#bells.get(call.generation), call.wait, signal, call.epoch);
    }
  }

  async evict(request) {
    const described = read(request);
    try {
      const evicted = this.#alive((core) => {
        describe(core, described);
        return core.evict();
      });
      // An instance that breaks in the middle leaves the promise pending.
      const settled = await wait(evicted, EVICT_MS, undefined, currentEpoch());
      if (settled === TIMED_OUT) throw instanceLost();
      await evicted;
    } catch (failure) {
      throw failure instanceof Error ? failure : new ExchangeError(failure);
    }
  }

  get stats() {
    return this.#alive((core) => core.stats());
  }

  /** Runs `work` on the wasm half; once more where the instance breaks under it. */
  #alive(work) {
    try {
      return guarded(() => work(this.#living()));
    } catch (error) {
      if (!(error instanceof InstanceLost)) throw error;
    }
    return guarded(() => work(this.#living()));
  }

  /** Hangs up a flight's bell, and takes down those of flights that the core's table has forgotten. */
  #hang(bell, generation, oldest) {
    for (const known of this.#bells.keys()) {
      if (known >= oldest) break;
      this.#bells.delete(known);
    }
    this.#bells.set(generation, bell);
  }

  /** Hands events to the listener, once what the core said has been read: a listener may call back. */
  #report(core, result) {
    if (this.#host.onEvent) core.report();
    return result;
  }
}

/** `deadline` is that of the same call before its instance broke. */
function begin(core, described, deadline = Infinity) {
  describe(core, described);
  return core.begin(deadline);
}

function resume(core, described, call, wake) {
  describe(core, described);
  return core.wake(wake, call?.deadline ?? 0, call?.generation ?? 0, call?.due ?? 0, call?.takeovers ?? 0, call?.leads ?? false);
}

/** The token that the core answers with. */
function answer(core) {
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

/** A request as it was when it was made: its fields in a row, its signal, and what is wrong with its form. */
function read(request) {
  const described = { fields: [], fromCache: true, signal: undefined, wrong: undefined };
  const wrong = (name, problem) => (described.wrong ??= { name, problem });
  const list = (name, value) => {
    if (value.length > MAX_LIST_LENGTH) return wrong(name, "has too many elements");
    try {
      described.fields.push(name, [...value]);
    } catch {
      wrong(name, "cannot be read");
    }
  };
  const take = (object, prefix) => {
    for (const key of Object.keys(object)) {
      const name = prefix + key;
      let value;
      try {
        value = object[key];
      } catch {
        wrong(name, "cannot be read");
        continue;
      }
      if (value === undefined || value === null) continue;
      // A dotted name is a part of `subject` only within it.
      if (FIELDS.has(name) && !key.includes(".")) {
        if (typeof value === "string") described.fields.push(name, value);
        else if (LISTS.has(name) && Array.isArray(value)) list(name, value);
        else wrong(name, LISTS.has(name) ? "must be a string or a list of strings" : "must be a string");
      } else if (name === "subject" && typeof value === "object") {
        const before = described.fields.length;
        take(value, "subject.");
        if (described.fields.length === before) wrong(name, "must name an issuer and an id");
      } else if (name === "fromCache" && typeof value === "boolean") described.fromCache = value;
      else if (name === "signal" && typeof value.aborted === "boolean" && typeof value.addEventListener === "function") {
        described.signal = value;
      } else if (KINDS.has(name)) wrong(name, `must be ${KINDS.get(name)}`);
      else wrong(name, "is not a known field");
    }
  };
  if (typeof request === "object" && request !== null) take(request, "");
  return described;
}

/** Describes a request to the core, field by field; the core says what is wrong with one. */
function describe(core, { fields, fromCache, wrong }) {
  core.describe(fromCache);
  if (wrong) core.wrong_field(wrong.name, wrong.problem);
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index];
    const value = fields[index + 1];
    for (const text of typeof value === "string" ? [value] : value) {
      if (typeof text === "string") core.field(FIELDS.get(name), encode(text));
      else core.wrong_field(name, "must be a string or a list of strings");
    }
  }
}

/**
 * Waits for the bell, the time or the caller's signal, whichever is first. The timer is the caller's own: a
 * bell whose request has ended may never ring.
 */
function wait(bell, milliseconds, signal, epoch) {
  if (bell === undefined) return ORPHANED;
  return new Promise((resolve) => {
    const end = (how) => {
      clearTimeout(timer);
      clearInterval(watch);
      signal?.removeEventListener("abort", abort);
      resolve(how);
    };
    const abort = () => end(ABORTED);
    const timer = setTimeout(end, milliseconds, TIMED_OUT);
    // A flight that was lost with its instance never reports.
    const watch = milliseconds > WATCH_MS ? setInterval(() => currentEpoch() !== epoch && end(TIMED_OUT), WATCH_MS) : undefined;
    signal?.addEventListener("abort", abort);
    // It never rejects on purpose, so a rejection means that its request has ended.
    bell.then(
      () => end(RANG),
      () => end(ORPHANED),
    );
  });
}

/** The options: as JSON for the core, and the operator's own objects as the core's driver calls them. */
function readOptions(options) {
  const parts = [];
  const own = new Map();
  /** The client at each authorization server, by the core's numbers. */
  const clients = [];
  for (const name of Object.keys(options ?? {})) {
    try {
      let value = options[name];
      if (name === "clientAuthentication") value = (clients[0] = new Client(value)).told;
      if (name === "resourceAuthorizationServer" && isPlain(value)) {
        const { clientAuthentication, ...server } = value;
        value = { ...server, clientAuthentication: (clients[1] = new Client(clientAuthentication)).told };
      }
      if (HOST_OPTIONS.has(name)) own.set(name, value ?? undefined);
      else {
        const json = JSON.stringify(value, plain);
        if (json !== undefined) parts.push(`${JSON.stringify(name)}:${json}`);
      }
    } catch {
      throw misconfigured(name, "must be made of plain values");
    }
  }
  const host = hostOf(own.get("store"), own.get("fetch"), own.get("onEvent"));
  host.sign = (server, header, claims) => clients[server].sign(header, claims);
  host.clientAssertion = (server) => clients[server].obtain();
  return { json: `{${parts.join()}}`, host };
}

/** JSON drops or bends what it cannot carry; `true` is what no option takes, so that the core names the place. */
function plain(_name, value) {
  if (typeof value === "number") return Number.isFinite(value) ? value : true;
  if (typeof value === "string") return value.isWellFormed() ? value : true;
  return typeof value === "function" || typeof value === "symbol" || typeof value === "bigint" ? true : value;
}

function hostOf(store, fetch, onEvent) {
  const has = (object, method) => typeof object?.[method] === "function";
  if (store !== undefined && !(has(store, "get") && has(store, "put") && has(store, "delete"))) {
    throw misconfigured("store", "must have the methods get, put and delete");
  }
  if (onEvent !== undefined && typeof onEvent !== "function") throw misconfigured("onEvent", "must be a function");
  if (fetch !== undefined && typeof fetch !== "function" && !has(fetch, "fetch")) {
    throw misconfigured("fetch", "must be a function, or a binding with a method fetch");
  }
  const send = fetch === undefined || typeof fetch === "function" ? fetch : (url, init) => fetch.fetch(url, init);
  return {
    store,
    onEvent,
    hasFetch: fetch !== undefined,
    // The global one is looked up at each call, and called as a plain function.
    fetch: (url, init) => (send ?? globalThis.fetch)(url, init),
  };
}

function misconfigured(field, problem) {
  return new ExchangeError({ reason: "misconfigured", message: `${field} ${problem}`, retryable: false, field });
}

function instanceLost() {
  return new ExchangeError({ reason: "unavailable", message: "the WebAssembly instance broke and was replaced", retryable: true });
}
