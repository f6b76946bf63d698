/**
 * The main job on one command: an identity provider, an MCP server and the gateway in real workerd, and a real MCP
 * client that calls tools through it. Every line that starts with "ok" or "FAILED" is an expectation.
 *
 *   node tests/servers/main-job.js [--once] [--port N]
 *
 * --once   leave when done; the exit status is 0 where every expectation held
 * --port   port of the gateway, default any free one
 */

import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { startGateway } from "./gateway.js";
import { gatewayClient, startIdentityProvider } from "./identity-provider.js";
import { connectMcpClient } from "./mcp-client.js";
import { startMcpServer } from "./mcp-server.js";
import { gatewayAudience } from "./user-token.js";

const scope = "api://mcp-files/tools.call";
const concurrentCalls = 50;
/** Header and claims of any token, the user's and the MCP server's alike. */
const jsonWebToken = /eyJ[\w-]+\.eyJ/;
/** What the gateway's `Server-Timing: obo;desc=…` says. */
const sourceMeanings = {
  issuer: "asked the identity provider",
  flight: "joined a request that was under way",
  memory: "found it in the isolate's memory",
  store: "found it in Workers KV",
};
const initializeMessage = {
  jsonrpc: "2.0",
  id: 1,
  method: "initialize",
  params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "curl", version: "1" } },
};

const { values: options } = parseArgs({ options: { once: { type: "boolean" }, port: { type: "string" } } });
const port = options.port === undefined ? undefined : Number(options.port);
if (port !== undefined && !(Number.isInteger(port) && port > 0 && port < 65536)) {
  console.error(`--port: "${options.port}" is no port`);
  process.exit(2);
}
/** What has been started, the last one first. */
const running = [];
let failures = 0;

try {
  const demo = await startServers();
  await showOneExchange(demo);
  await showConcurrentCalls(demo);
  await showRetry(demo);
  await showRefusals(demo);
  await showWhatIsKept(demo);
  heading("Result");
  print(failures === 0 ? "every expectation held" : `${failures} expectation(s) FAILED`);
  if (!options.once) {
    await printCommands(demo);
    // Until Ctrl-C: the servers end with this process, and Miniflare ends workerd as it exits.
    await new Promise(() => {});
  }
} catch (error) {
  failures += 1;
  console.error("\nFAILED: the main job could not go on\n", error);
} finally {
  for (const server of running) await server.close();
}
process.exitCode = failures === 0 ? 0 : 1;

async function startServers() {
  heading("Starting");
  const identityProvider = await start("identity provider", startIdentityProvider(), ({ issuer }) => issuer);
  const { issuer, tokenEndpoint, jwksUri } = identityProvider;
  const mcpServer = await start("MCP server", startMcpServer({ issuer, jwksUri }), ({ url }) => url);
  const gateway = await start("gateway in workerd", startGateway({
    port,
    config: {
      exchanger: {
        tokenEndpoint,
        clientId: gatewayClient.clientId,
        clientAuthentication: { method: "client_secret_post" },
      },
      servers: {
        files: {
          type: "streamable-http",
          url: mcpServer.url,
          inbound: { issuer, audience: gatewayAudience, scopes: ["mcp.access"] },
          obo: { scopes: scope },
        },
      },
    },
    secrets: {
      OBO_CLIENT_SECRET: gatewayClient.clientSecret,
      OBO_STORE_SECRETS: randomBytes(32).toString("base64"),
    },
    variables: { OBO_LOG: "events" },
    coordinator: true,
  }), ({ url }) => url);
  return { identityProvider, mcpServer, gateway, url: `${gateway.url}/mcp/files` };
}

async function start(name, starting, address) {
  const server = await starting;
  running.unshift(server);
  print(`${name.padEnd(20)} ${address(server)}`);
  return server;
}

async function showOneExchange({ identityProvider, mcpServer, url }) {
  heading("One user's token goes in, the MCP server gets its own");
  const token = await identityProvider.mintUserToken({ subject: "ada" });
  printToken("in: the user's token at the gateway", decodeProtectedHeader(token), decodeJwt(token));

  const client = await connectMcpClient({ url, token, headers: { Cookie: "session=not-for-upstream" } });
  const { tools } = await client.listTools();
  const { header, claims } = JSON.parse(textOf(await client.callTool({ name: "whoami" })));
  printToken("out: the token at the MCP server, as its tool whoami saw it", header, claims);
  print(`tools through the gateway: ${tools.map(({ name }) => name).join(", ")}`);
  const echoed = textOf(await client.callTool({ name: "echo", arguments: { text: "hello" } }));
  const progress = [];
  await client.callTool({ name: "count", arguments: { to: 3, intervalMs: 100 } }, undefined, {
    onprogress: ({ progress: step }) => progress.push({ step, at: Date.now() }),
  });
  await leave(client);

  expect("the MCP server's token is for the MCP server", claims.aud, "api://mcp-files");
  expect("it is the same user's", claims.sub, "ada");
  expect("it carries the scope that the gateway asked for", claims.scp, "tools.call");
  expect("a tool's answer comes back", echoed, "hello");
  expect("progress comes in steps", progress.map(({ step }) => step), [1, 2, 3]);
  expect("and while the tool runs, not at its end", progress.at(-1).at - progress[0].at >= 100, true);
  expect("the whole session made one token request", identityProvider.tokenRequests.length, 1);
  const leaked = mcpServer.requests.filter(({ headers }) => headers.cookie !== undefined || headers.authorization?.includes(token));
  expect("neither the user's token nor a cookie reached the MCP server", leaked.length, 0);
}

async function showConcurrentCalls({ identityProvider, url }) {
  heading(`${concurrentCalls} sessions of a fresh user at once, one tool call each`);
  const token = await identityProvider.mintUserToken({ subject: "grace" });
  const before = identityProvider.tokenRequests.length;
  const sources = {};
  const startedAt = performance.now();
  const answers = await Promise.all(Array.from({ length: concurrentCalls }, async (_, index) => {
    const client = await connectMcpClient({ url, token, fetch: countingFetch(sources) });
    const answer = textOf(await client.callTool({ name: "echo", arguments: { text: `call ${index}` } }));
    await leave(client);
    return answer;
  }));
  const tookMs = Math.round(performance.now() - startedAt);
  const tokenRequests = identityProvider.tokenRequests.length - before;

  const responses = Object.values(sources).reduce((sum, count) => sum + count, 0);
  print(`${responses} responses through the gateway in ${tookMs} ms; where each one's token came from:`);
  for (const [source, meaning] of Object.entries(sourceMeanings)) {
    print(`  ${source.padEnd(7)} ${String(sources[source] ?? 0).padStart(4)}   ${meaning}`);
  }
  print(`  token requests at the identity provider: ${tokenRequests}`);
  expect("every call was answered", answers, Array.from({ length: concurrentCalls }, (_, index) => `call ${index}`));
  expect("one token request", tokenRequests, 1);
  expect("one request led the exchange", sources.issuer, 1);
  expect("others joined it", sources.flight > 0, true);
  expect("every response named its source", sources.unnamed ?? 0, 0);
}

async function showRetry({ identityProvider, url }) {
  heading("The identity provider answers 503 once");
  const before = identityProvider.tokenRequests.length;
  identityProvider.faults.push(503);
  const startedAt = performance.now();
  const client = await connectMcpClient({ url, token: await identityProvider.mintUserToken({ subject: "linus" }) });
  print(`connected after ${Math.round(performance.now() - startedAt)} ms`);
  const echoed = textOf(await client.callTool({ name: "echo", arguments: { text: "after a retry" } }));
  await leave(client);
  const requests = identityProvider.tokenRequests.slice(before);
  for (const { at, fault } of requests) print(`token request after ${at - requests[0].at} ms: ${fault ?? "a token"}`);
  expect("the call succeeds", echoed, "after a retry");
  expect("by a second token request", requests.length, 2);
}

async function showRefusals({ gateway, identityProvider, mcpServer, url }) {
  heading("Who gets no further");
  const before = mcpServer.requests.length;

  const missing = await initialize(url);
  const challenge = missing.headers.get("www-authenticate") ?? "";
  print(`without a token: ${missing.status}, WWW-Authenticate: ${challenge}`);
  expect("401 without a token", missing.status, 401);
  const metadataUrl = /resource_metadata="([^"]+)"/.exec(challenge)?.[1];
  expect("resource_metadata is at the public origin", metadataUrl?.startsWith(`${gateway.url}/`), true);
  const metadata = metadataUrl === undefined ? {} : await (await fetch(metadataUrl)).json();
  print(`protected resource metadata: ${JSON.stringify(metadata)}`);
  expect("it names the resource", metadata.resource, url);
  expect("it names the identity provider", metadata.authorization_servers, [identityProvider.issuer]);

  const foreign = await initialize(url, await identityProvider.mintUserToken({ audience: "api://another" }));
  print(`with a token for another audience: ${foreign.status}`);
  expect("401 for another audience's token", foreign.status, 401);

  // Entra throttles a user with HTTP 400 and "invalid_grant", which looks like a dead token and is none.
  const throttled = await initialize(url, await identityProvider.mintUserToken({ subject: "throttled" }));
  print(`a user whom the identity provider throttles: ${throttled.status}, Retry-After: ${throttled.headers.get("retry-after")}`);
  expect("503 for a throttled user, not 401", throttled.status, 503);
  expect("with Retry-After in seconds", /^\d+$/.test(throttled.headers.get("retry-after") ?? ""), true);

  expect("none of it reached the MCP server", mcpServer.requests.length - before, 0);
}

async function showWhatIsKept({ gateway }) {
  heading("What the gateway keeps");
  const store = await gateway.store();
  const { keys } = await store.list();
  const values = await Promise.all(keys.map(({ name }) => store.get(name)));
  keys.forEach(({ name }, index) => print(`store: ${name} (${values[index].length} characters)`));
  print(`log: ${gateway.logs.length} lines`);
  const revealing = [...values, ...gateway.logs].filter((text) => jsonWebToken.test(text));
  expect("tokens are kept in Workers KV", keys.length > 0, true);
  const byCoordinator = gateway.logs.filter((line) => line.includes("coordinator_hit")).length;
  print(`exchanges by the coordinator: ${byCoordinator}`);
  expect("the coordinator made each token", byCoordinator > 0 && !gateway.logs.some((line) => line.includes("coordinator_failure")), true);
  expect("no token can be read in the store or in the log", revealing.length, 0);
}

/** Ways to go on by hand. The token is the demo's own user's, of an identity provider that ends with this process. */
async function printCommands({ gateway, identityProvider, mcpServer, url }) {
  const token = await identityProvider.mintUserToken({ subject: "ada", lifetimeSeconds: 3600 });
  const post = [
    `curl -sS "$GATEWAY"`,
    `-H "Authorization: Bearer $TOKEN"`,
    `-H 'Content-Type: application/json'`,
    `-H 'Accept: application/json, text/event-stream'`,
  ].join(" ");
  heading("Try it (Ctrl-C ends everything)");
  print(`gateway            ${url}`);
  print(`MCP server         ${mcpServer.url}`);
  print(`identity provider  ${identityProvider.issuer}/.well-known/openid-configuration`);
  print(`
# a user's token, good for an hour
GATEWAY='${url}'
TOKEN='${token}'

# without a token: 401, and where to get one
curl -sSi -X POST "$GATEWAY"
curl -sS ${gateway.url}/.well-known/oauth-protected-resource/mcp/files

# open a session
SESSION=$(${post} -o /dev/null -D - -d '${JSON.stringify(initializeMessage)}' | tr -d '\\r' | sed -n 's/^mcp-session-id: //Ip')

# what the MCP server sees of you, and a tool that streams
${post} -H "Mcp-Session-Id: $SESSION" -d '${callMessage("whoami", {})}'
${post} -H "Mcp-Session-Id: $SESSION" -N -d '${callMessage("count", { to: 5, intervalMs: 500 })}'

# the MCP server itself does not take that token
curl -sSi -X POST ${mcpServer.url} -H "Authorization: Bearer $TOKEN"
`);
}

function callMessage(name, parameters) {
  const params = { name, arguments: parameters, _meta: { progressToken: "p" } };
  return JSON.stringify({ jsonrpc: "2.0", id: 2, method: "tools/call", params });
}

async function initialize(url, token) {
  const response = await fetch(url, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      Accept: "application/json, text/event-stream",
      ...(token && { Authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify(initializeMessage),
  });
  await response.arrayBuffer();
  return response;
}

/** A fetch that counts where the gateway says each request's token came from (`Server-Timing: obo;desc=…`). */
function countingFetch(sources) {
  return async (input, init) => {
    const response = await fetch(input, init);
    const source = /\bobo;[^,]*\bdesc="?(\w+)/.exec(response.headers.get("server-timing") ?? "")?.[1] ?? "unnamed";
    sources[source] = (sources[source] ?? 0) + 1;
    return response;
  };
}

/** Ends the session at the MCP server too, and the listening stream with it. */
async function leave(client) {
  await client.transport.terminateSession();
  await client.close();
}

function textOf({ content }) {
  return content.map(({ text }) => text).join("");
}

/** Header and claims, never the signature. */
function printToken(title, header, claims) {
  print(title);
  print(`  header  ${JSON.stringify(header)}`);
  for (const [name, value] of Object.entries(claims)) print(`  ${name.padEnd(7)} ${JSON.stringify(value)}`);
}

function expect(what, actual, expected) {
  const [found, wanted] = [actual, expected].map((value) => JSON.stringify(value));
  if (found === wanted) return print(`ok      ${what}`);
  failures += 1;
  return print(`FAILED  ${what}: expected ${wanted}, found ${found}`);
}

function heading(title) {
  print(`\n${title}\n${"-".repeat(title.length)}`);
}

function print(line) {
  console.log(line);
}
