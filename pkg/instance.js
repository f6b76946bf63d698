// The wasm instance, and what happens when it breaks.
import { module, waitUntil } from "#runtime";
import * as wasm from "./wasm/obo_edge.js";

export { wasm };

const encoder = new TextEncoder();
/** One more than the core takes, so that it is the core that refuses. */
const MAX_TEXT_LENGTH = 64 * 1024 + 1;

let epoch = 0;
let memory;
let scratch = new Uint8Array();

/** Counts the instances; a handle of an earlier one must not be used any more. */
export function currentEpoch() {
  if (epoch === 0) {
    memory = wasm.initSync({ module }).memory;
    epoch = 1;
  }
  return epoch;
}

/**
 * Runs `work` on the wasm instance. The core throws failures, which are plain objects; an error is a trap, or the
 * state that one has left behind. A trap leaves an instance damaged but running, so it is replaced by a new
 * one, with fresh memory; what its handles held is lost.
 */
export function guarded(work) {
  try {
    return work();
  } catch (error) {
    if (error instanceof Error && !(error instanceof InstanceLost)) {
      wasm.__wbg_reset_state();
      memory = wasm.initSync({ module }).memory;
      scratch = new Uint8Array();
      epoch += 1;
      throw new InstanceLost();
    }
    throw error;
  }
}

/** The instance broke under a call; a new one stands ready. */
export class InstanceLost extends Error {}

/**
 * A handle that `make` makes, and makes anew where the instance that it was part of has broken. What the core
 * refuses is thrown as `refusal` has it.
 */
export function living(make, refusal) {
  let handle;
  let made;
  const get = () => {
    if (made !== currentEpoch()) {
      try {
        handle = makeTwice(make);
      } catch (failure) {
        throw failure instanceof InstanceLost ? failure : refusal(failure);
      }
      made = currentEpoch();
    }
    return handle;
  };
  get();
  return get;
}

/** Makes a handle, on a new instance where the present one turns out to be broken. */
function makeTwice(make) {
  try {
    return guarded(make);
  } catch (failure) {
    if (!(failure instanceof InstanceLost)) throw failure;
  }
  return guarded(make);
}

/** Encodes `text` where wasm reads it; returns the number of bytes. */
export function encode(text) {
  // Longer ones are refused whatever follows.
  if (text.length > MAX_TEXT_LENGTH) text = text.slice(0, MAX_TEXT_LENGTH);
  const most = text.length * 3;
  // A memory that grew has a new buffer, and the old view is empty.
  if (scratch.length < most) {
    const address = wasm.scratch(most);
    scratch = new Uint8Array(memory.buffer, address, most);
  }
  return encoder.encodeInto(text, scratch).written;
}

/** Keeps the request that runs now alive for `promise`, by its ctx where there is one. */
export function anchor(promise, ctx) {
  try {
    if (ctx) ctx.waitUntil(promise);
    else waitUntil?.(promise);
  } catch {
    // Outside of a request there is nothing to keep alive.
  }
}
