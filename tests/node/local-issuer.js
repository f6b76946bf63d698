/** What tests with a tiny authorization server share: one for each test, exchangers for it, how an exchange fails there. */

import assert from "node:assert/strict";
import { TokenExchanger } from "obo-edge";
import { startAuthorizationServer } from "../servers/authorization-server.js";
import { assertNothingShows, clientSecret, failureOf, unsignedToken } from "./support.js";

export const clientId = "gateway";
export const scope = "files.read";

/**
 * An authorization server that ends with the test.
 *
 * @param {import("node:test").TestContext} t
 * @param {Parameters<typeof startAuthorizationServer>[0]} [options]
 */
export async function localIssuer(t, options) {
  const issuer = await startAuthorizationServer(options);
  t.after(() => issuer.close());
  return issuer;
}

/** Options of an exchanger that knows the issuer alone. */
export function optionsFor(issuer, overrides) {
  return {
    issuer: issuer.issuer,
    grant: "token-exchange",
    clientId,
    clientAuthentication: { method: "client_secret_basic", clientSecret },
    retry: { delayMs: 1 },
    ...overrides,
  };
}

export function exchangerFor(issuer, overrides) {
  return new TokenExchanger(optionsFor(issuer, overrides));
}

/** Exchanges a token of its own. */
export function exchangeAt(exchanger, request) {
  return exchanger.exchange({ assertion: unsignedToken(), scopes: scope, ...request });
}

/** The failure of an exchange that sends no token request to `issuer` and adds nothing to the cache. */
export async function failureUnsent(issuer, exchanger, { request, secrets = [] } = {}) {
  const sent = issuer.tokenRequests.length;
  const kept = keptBy(exchanger);
  const assertion = unsignedToken();
  const error = await failureOf(exchangeAt(exchanger, { assertion, ...request }));
  assert.equal(issuer.tokenRequests.length, sent, "a token request was sent");
  assert.deepEqual(keptBy(exchanger), kept);
  assertNothingShows([error], [assertion, clientSecret, ...secrets]);
  return error;
}

export function keptBy(exchanger) {
  const { tokens, memoryEntries } = exchanger.stats;
  return { tokens, memoryEntries };
}

/** Whose move it is, and where; the message names the place too. */
export function outline({ reason, field, retryable, message }) {
  if (field !== undefined) assert.ok(message.startsWith(`${field} `), `${message} does not begin with ${field}`);
  return { reason, field, retryable };
}

export const misconfigured = (field) => ({ reason: "misconfigured", field, retryable: false });
export const unavailable = (field) => ({ reason: "unavailable", field, retryable: true });
export const invalidResponse = (field) => ({ reason: "invalid_response", field, retryable: false });
