// TokenExchanger: callers that wait, their signals, and recovery. What to do is the core's to say.
import { ExchangeError, instanceLost } from "./error.js";
import { InstanceLost, anchor, currentEpoch, guarded, living, wasm } from "./instance.js";
import { readOptions } from "./options.js";
import { describe, read } from "./request.js";

const { Next, Number: Of, Text } = wasm;

/** What ends a wait, by the core's numbers. */
const RANG = 0;
const TIMED_OUT = 1;
const ORPHANED = 2;
const ABORTED = 3;

/** How often a caller that waits looks whether its instance is still there, in milliseconds. */
const WATCH_MS = 500;

/** How long an eviction may take, in milliseconds. */
const EVICT_MS = 8000;

/** How often a call begins anew because the wasm instance broke under it. */
const MAX_REBIRTHS = 2;

/** What the package's own parts may ask of a TokenExchanger, and nobody else. */
export let internal;

export class TokenExchanger {
  static {
    internal = {
      /** Whether the coordinator's object of this name is the one for `request`. */
      isNamed: (exchanger, request, name) => exchanger.#isNamed(request, name),
      /** The token for `request`, sealed for another isolate. */
      sealed: (exchanger, request, ctx) => exchanger.#exchange(read(request), ctx, (core) => core.sealed_answer()),
      /** Forgets a token that its server `refused`; not more than once a minute. */
      evict: (exchanger, request, refused) => exchanger.#evict(read(request), refused),
    };
  }

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
    return this.#exchange(read(request), ctx, token);
  }

  async #exchange(described, ctx, answer) {
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
        if (next === Next.Answer) return this.#report(core, guarded(() => answer(core)));
        if (next === Next.Fail) throw this.#report(core, new ExchangeError(guarded(() => core.failure())));
        const answered = next === Next.AnswerAndRenew ? guarded(() => answer(core)) : undefined;
        const keep = (promise) => anchor(promise, ctx);
        const bell = next === Next.Lead || answered ? guarded(() => core.fly(keep)) : undefined;
        call = guarded(() => callOf(core));
        deadline = call.deadline;
        // What the core said has been read: a context or a listener may call back from here on.
        if (bell) this.#hang(bell, call.generation, guarded(() => core.number(Of.OldestGeneration)));
        if (bell) keep(bell);
        this.#report(core);
        if (answered) return answered;
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
    return this.#evict(read(request), false);
  }

  #isNamed(request, name) {
    return this.#alive((core) => {
      describe(core, read(request));
      return core.is_named(name);
    });
  }

  async #evict(described, refused) {
    try {
      const evicted = this.#alive((core) => {
        describe(core, described);
        return core.evict(refused);
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
function token(core) {
  const parts = {
    accessToken: core.text(Text.AccessToken),
    tokenType: core.text(Text.TokenType),
    expiresAt: core.number(Of.ExpiresAt),
    scope: core.text(Text.Scope),
    source: core.text(Text.Source),
  };
  const issuedTokenType = core.text(Text.IssuedTokenType);
  if (issuedTokenType !== undefined) parts.issuedTokenType = issuedTokenType;
  return parts;
}

/** The call's own numbers, and how long it waits. */
function callOf(core) {
  const wait = core.wait_ms();
  return {
    epoch: currentEpoch(),
    wait,
    deadline: core.number(Of.Deadline),
    generation: core.number(Of.Generation),
    due: core.number(Of.Due),
    takeovers: core.number(Of.Takeovers),
    leads: core.number(Of.Leads) === 1,
  };
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
