/** What the tests of the package in Node share: a token endpoint in memory, a store on a Map, options that work. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { ExchangeError } from "obo-edge";
import { gatewayClient, startIdentityProvider } from "../servers/identity-provider.js";

export const scope = "api://mcp-files/tools.call";

/** Has to be escaped in a form and in Basic, so that a test that looks for it looks for something. */
export const clientSecret = "hunter2:/+ &%";

/** What no message may ever quote. */
export const description = "AADSTS0: the text that names ada@example.com";

/** Options that are complete; the fetch is one that no test expects to be called. */
export function completeOptions(overrides) {
  return {
    tokenEndpoint: "https://login.example/token",
    clientId: "gateway",
    clientAuthentication: { method: "client_secret_post", clientSecret },
    fetch: () => assert.fail("nothing was to be fetched"),
    ...overrides,
  };
}

export function newStoreSecret() {
  return randomBytes(32).toString("base64");
}

/** A store secret whose bytes the test computes with. */
export function secretBytes(secret) {
  return Buffer.from(secret, "base64");
}

/**
 * A token endpoint in memory. Its tokens name the assertion that they were made for, so that a mix-up shows.
 *
 * @param {(form: URLSearchParams, init: RequestInit, count: number) => Response | Promise<Response> | undefined} [answer]
 *   `undefined` for the truth
 */
export function tokenEndpoint(answer) {
  const requests = [];
  async function fetch(url, init) {
    const form = new URLSearchParams(init.body);
    requests.push({ url, form, init, headers: new Headers(init.headers) });
    return (await answer?.(form, init, requests.length)) ?? tokenResponse({ access_token: tokenFor(form.get("assertion")) });
  }
  return { fetch, requests };
}

export function tokenFor(assertion) {
  return `token-for-${assertion.slice(-24)}`;
}

export function tokenResponse(members) {
  return Response.json({ token_type: "Bearer", expires_in: 3600, scope, access_token: "token", ...members });
}

export function errorResponse(status, members, headers) {
  return Response.json({ error_description: description, ...members }, { status, headers });
}

/** A JWT that nobody signed: the package reads its expiry and never verifies it. */
export function unsignedToken(claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const payload = { exp: Math.floor(Date.now() / 1000) + 3600, jti: randomBytes(8).toString("hex"), ...claims };
  return `${part({ alg: "RS256", typ: "JWT" })}.${part(payload)}.${randomBytes(256).toString("base64url")}`;
}

/** A store on a Map with the methods of Workers KV, which keeps what it was asked. */
export class MapStore {
  entries = new Map();
  gets = [];
  puts = [];
  deletes = [];

  async get(name) {
    this.gets.push(name);
    return this.entries.get(name) ?? null;
  }

  async put(name, value, options) {
    this.puts.push({ name, value, options });
    this.entries.set(name, value);
  }

  async delete(name) {
    this.deletes.push(name);
    this.entries.delete(name);
  }

  /** Resolves once there were this many writes; they happen after the answer. */
  async written(count) {
    await until(() => this.puts.length >= count);
  }
}

/** Resolves once `condition` holds, and fails where it never does. */
export async function until(condition, milliseconds = 2000) {
  const end = Date.now() + milliseconds;
  while (!condition()) {
    assert.ok(Date.now() < end, `${condition} never held`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** The ExchangeError that `promise` rejects with. */
export async function failureOf(promise) {
  const error = await promise.then(
    (value) => assert.fail(`resolved with ${JSON.stringify(value)}`),
    (reason) => reason,
  );
  return exchangeError(error);
}

/** The ExchangeError that `work` throws. */
export function thrownBy(work) {
  try {
    work();
  } catch (error) {
    return exchangeError(error);
  }
  return assert.fail("nothing was thrown");
}

function exchangeError(error) {
  assert.ok(error instanceof ExchangeError, `${error?.stack ?? error} is no ExchangeError`);
  return error;
}

/** What an error says, without its stack. */
export function described(error) {
  return { message: error.message, ...error };
}

/** Everything that a program could print of an error or an event. */
export function printed(value) {
  const parts = [JSON.stringify(value), String(value), value.message, value.stack, JSON.stringify(Object.entries(value))];
  return parts.join("\n");
}

/** Fails where any text of `secrets` can be read in what could be printed of `values`. */
export function assertNothingShows(values, secrets) {
  for (const value of values) {
    for (const secret of secrets) {
      // As it is, in a form, and in a JSON string.
      for (const text of [secret, encodeURIComponent(secret), JSON.stringify(secret).slice(1, -1)]) {
        assert.ok(!printed(value).includes(text), `${JSON.stringify(value)} shows a secret`);
      }
    }
  }
}

/** The real identity provider, and exchangers for it. */
export async function startIssuer(options) {
  const issuer = await startIdentityProvider(options);
  const exchangerOptions = (overrides) => ({
    issuer: issuer.issuer,
    tokenEndpoint: issuer.tokenEndpoint,
    clientId: gatewayClient.clientId,
    clientAuthentication: { method: "client_secret_post", clientSecret: gatewayClient.clientSecret },
    retry: { delayMs: 20 },
    ...overrides,
  });
  return Object.assign(issuer, { exchangerOptions });
}
