/** What an operator has instead of a binding with a certificate in Node: `fetch` by `node:https`. */

import { once } from "node:events";
import { request } from "node:https";
import { Readable } from "node:stream";

/**
 * A function like `fetch` that shows a client's certificate to https servers.
 *
 * @param {{ ca: string, key?: string, cert?: string }} identity
 */
export function certificateFetch(identity) {
  return async function fetchWithCertificate(url, init) {
    if (!url.startsWith("https:")) return fetch(url, init);
    const { method, body, signal } = init;
    const outgoing = request(url, { ...identity, method, signal, headers: Object.fromEntries(new Headers(init.headers)), agent: false });
    outgoing.end(body);
    const [incoming] = await once(outgoing, "response");
    return new Response(Readable.toWeb(incoming), { status: incoming.statusCode, headers: incoming.headers });
  };
}
