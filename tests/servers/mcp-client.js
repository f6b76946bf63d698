/** An MCP client on the official SDK, over streamable HTTP with a bearer token that it already has. */

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

/**
 * Connects (initialize, initialized, the listening stream). `client.close()` ends the connection,
 * `client.transport.terminateSession()` the session.
 *
 * @param {object} options
 * @param {string} options.url
 * @param {string} [options.token] the user's access token
 * @param {Record<string, string>} [options.headers] more request headers
 * @param {typeof fetch} [options.fetch] to look at the responses
 * @returns {Promise<Client>}
 */
export async function connectMcpClient({ url, token, headers, fetch }) {
  const client = new Client({ name: "obo-edge-client", version: "1.0.0" });
  const authorization = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  await client.connect(new StreamableHTTPClientTransport(new URL(url), {
    fetch,
    requestInit: { headers: { ...authorization, ...headers } },
  }));
  return client;
}
