/** A switch in front of an endpoint: what it answers instead of the truth, one fault per request. */

import { Readable } from "node:stream";
import { entraError } from "./entra-error.js";

/**
 * - a number, or `{ status, headers, body }`: this response (an object as body is sent as JSON)
 * - `{ members }`: the true response with these members replaced in its JSON (`undefined` removes one)
 * - "timeout": no answer, ever; "reset": the connection is reset
 * - "throttle-50196": Entra's throttling of one user, HTTP 400; "html": a page, HTTP 200
 * - "huge": 10 MB of JSON; "redirect": 307 to `/redirected`, which counts who follows
 *
 * @typedef {number | { status: number, headers?: Record<string, string>, body?: string | object }
 *   | { members: object } | "timeout" | "reset" | "throttle-50196" | "html" | "huge" | "redirect"} Fault
 */

const hugeBytes = 10_000_000;

/** The faults waiting for the token endpoint, in order, and those of the key set and metadata. */
export function createFaultSwitch() {
  const queue = [];
  return {
    /** @type {Fault | null} answers every request for the key set and for metadata until null again */
    keys: null,
    /** Milliseconds that each token response is held back, faulty or not. */
    delayMs: 0,
    /** Token requests that came to where "redirect" points. */
    redirectsFollowed: 0,
    /** How many faults nobody has met yet. */
    get pending() {
      return queue.length;
    },
    /** @param {Fault} fault @param {number} [times] */
    push(fault, times = 1) {
      for (let count = 0; count < times; count += 1) queue.push(fault);
    },
    /** @returns {Fault | undefined} */
    take: () => queue.shift(),
    clear() {
      queue.length = 0;
      this.keys = null;
      this.delayMs = 0;
      this.redirectsFollowed = 0;
    },
  };
}

/**
 * Answers a request with a fault.
 *
 * @param {import("koa").Context} context the request's body must have been read
 * @param {Fault} fault
 */
export function answerFault(context, fault) {
  switch (fault) {
    case "timeout":
      context.respond = false;
      return;
    case "reset":
      context.respond = false;
      context.req.socket.resetAndDestroy();
      return;
    case "huge":
      context.type = "json";
      context.body = hugeBody();
      return;
    case "html":
      context.type = "html";
      context.body = "<!doctype html><title>Sign in</title><p>Please sign in to the network.</p>";
      return;
    case "redirect":
      context.status = 307;
      context.set("Location", "/redirected");
      return;
    case "throttle-50196":
      return answerFault(context, entraError(50196));
    default: {
      const { status, headers = {}, body = "" } = typeof fault === "number" ? { status: fault } : fault;
      context.body = body;
      context.status = status;
      context.set(headers);
    }
  }
}

/** Streamed, so that a reader with a limit is seen to stop early. */
function hugeBody() {
  const chunk = "a".repeat(50_000);
  return Readable.from((function* () {
    yield '{"token_type":"Bearer","expires_in":3600,"access_token":"';
    for (let sent = 0; sent < hugeBytes; sent += chunk.length) yield Buffer.from(chunk);
    yield '"}';
  })());
}
