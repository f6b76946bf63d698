/** What the tests against the identity providers of others share. */

import assert from "node:assert/strict";
import { createRemoteJWKSet, jwtVerify } from "jose";

export const tokenExchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange";
export const accessTokenType = "urn:ietf:params:oauth:token-type:access_token";

/**
 * Why the tests of a server are skipped; `false` where they run.
 *
 * @param {string} folder environment variable: where the server is
 * @param {string} reason environment variable: why it is not
 */
export function skipped(folder, reason) {
  if (process.env[folder]) return false;
  return process.env[reason] || `${folder} is not set: \`cargo xtask test --servers\` fetches the server and sets it`;
}

/** Verifies exchanged tokens against the key set of their issuer. */
export function verifier({ issuer, jwksUri }) {
  const keySet = createRemoteJWKSet(new URL(jwksUri));
  return async (token, audience) => {
    const { payload } = await jwtVerify(token.accessToken, keySet, { issuer, audience, algorithms: ["RS256"] });
    assert.equal(token.tokenType, "Bearer");
    // The token's own end has whole seconds.
    assert.ok(token.expiresAt <= payload.exp * 1000 + 1000, `${token.expiresAt} is after ${payload.exp}`);
    return payload;
  };
}

/**
 * A fetch that keeps what it was asked.
 *
 * @param {(url: string, count: number) => void} [afterwards] may throw in place of the answer, which is lost then
 */
export function recordingFetch(afterwards) {
  const requests = [];
  async function recorded(url, init) {
    requests.push({ url: String(url), form: new URLSearchParams(init?.body ?? ""), headers: new Headers(init?.headers) });
    const response = await fetch(url, init);
    afterwards?.(String(url), requests.length);
    return response;
  }
  return { fetch: recorded, requests };
}
