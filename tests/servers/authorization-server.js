/** A tiny authorization server on a loopback address, which answers what a test says and keeps what it was asked. */

import { once } from "node:events";
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { text } from "node:stream/consumers";

/** Where metadata may be (OpenID Connect Discovery section 4, RFC 8414 section 3). */
export const wellKnown = ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"];

/**
 * - a number, or `{ status, headers, body }`: this response; an object as body is sent as JSON, an iterable is streamed
 * - "silence": no answer, ever; "reset": the connection is reset; `undefined`: the truth
 *
 * @typedef {number | { status?: number, headers?: Record<string, string>, body?: string | object | Iterable<string> }
 *   | "silence" | "reset" | undefined} Answer
 *
 * @typedef {object} SeenRequest
 * @property {string} method
 * @property {string} path
 * @property {import("node:http").IncomingHttpHeaders} headers
 * @property {URLSearchParams} form
 */

/**
 * @param {object} [options]
 * @param {string} [options.path] of the issuer identifier
 * @param {(document: object, path: string, count: number) => Answer} [options.metadata] `document` is the truth, at
 *   the first of the well-known places
 * @param {(request: SeenRequest, count: number) => Answer | Promise<Answer>} [options.token]
 */
export async function startAuthorizationServer({ path = "", metadata, token } = {}) {
  /** @type {SeenRequest[]} */
  const requests = [];
  const isTokenRequest = (request) => request.path === "/token";
  const server = createServer(async (request, response) => {
    const seen = { method: request.method, path: request.url, headers: request.headers, form: new URLSearchParams(await text(request)) };
    requests.push(seen);
    const isToken = isTokenRequest(seen);
    const count = requests.filter((other) => isTokenRequest(other) === isToken).length;
    const answer = isToken
      ? ((await token?.(seen, count)) ?? { body: tokenMembers(seen.form) })
      : (metadata?.(handle.document, seen.path, count) ?? (seen.path === path + wellKnown[0] ? { body: handle.document } : 404));
    await send(response, answer);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const origin = `http://127.0.0.1:${server.address().port}`;
  const handle = {
    issuer: origin + path,
    tokenEndpoint: `${origin}/token`,
    document: { issuer: origin + path, token_endpoint: `${origin}/token` },
    requests,
    get tokenRequests() {
      return requests.filter(isTokenRequest);
    },
    get metadataRequests() {
      return requests.filter((request) => !isTokenRequest(request));
    },
    async close() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
  return handle;
}

/** A good token response; the token names what it was made for, so that a mix-up shows. */
export function tokenMembers(form) {
  const presented = form.get("subject_token") ?? form.get("assertion") ?? "";
  return {
    access_token: `token-for-${presented.slice(-24)}`,
    token_type: "Bearer",
    expires_in: 3600,
    issued_token_type: "urn:ietf:params:oauth:token-type:access_token",
  };
}

/** An error response (RFC 6749 section 5.2). */
export function errorAnswer(error, members, status = 400) {
  return { status, body: { error, ...members } };
}

async function send(response, answer) {
  if (answer === "silence") return;
  if (answer === "reset") {
    response.socket.resetAndDestroy();
    return;
  }
  const { status = 200, headers = {}, body = "" } = typeof answer === "number" ? { status: answer } : answer;
  const isStream = typeof body[Symbol.iterator] === "function" && typeof body !== "string";
  response.writeHead(status, { "content-type": "application/json", ...headers });
  // Whoever has read enough goes away in the middle.
  if (isStream) await pipeline(Readable.from(body), response).catch(() => {});
  else response.end(typeof body === "string" ? body : JSON.stringify(body));
}
