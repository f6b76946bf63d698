/** An MCP server on the official SDK (streamable HTTP, sessions) that accepts only tokens with its own audience. */

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { InvalidTokenError } from "@modelcontextprotocol/sdk/server/auth/errors.js";
import { requireBearerAuth } from "@modelcontextprotocol/sdk/server/auth/middleware/bearerAuth.js";
import { createMcpExpressApp } from "@modelcontextprotocol/sdk/server/express.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { isInitializeRequest } from "@modelcontextprotocol/sdk/types.js";
import { createRemoteJWKSet, jwtVerify } from "jose";
import { z } from "zod";

/**
 * @typedef {object} SeenRequest
 * @property {number} at ms since epoch
 * @property {string} method
 * @property {Record<string, string | string[] | undefined>} headers as they arrived, names in lower case
 * @property {string} [message] the JSON-RPC method
 */

/**
 * @param {object} options
 * @param {string} options.issuer
 * @param {string} options.jwksUri
 * @param {string} [options.audience]
 * @param {number} [options.port] default 0, any free port
 */
export async function startMcpServer({ issuer, jwksUri, audience = "api://mcp-files", port = 0 }) {
  /** @type {SeenRequest[]} */
  const requests = [];
  /** Session id -> its transport and the user who opened it. */
  const sessions = new Map();

  const app = createMcpExpressApp();
  app.use((request, _response, next) => {
    requests.push({
      at: Date.now(),
      method: request.method,
      headers: { ...request.headers },
      message: request.body?.method,
    });
    next();
  });
  app.use("/mcp", requireBearerAuth({ verifier: accessTokenVerifier({ issuer, jwksUri, audience }) }));
  app.all("/mcp", async (request, response) => {
    const { sub } = request.auth.extra.claims;
    const sessionId = request.headers["mcp-session-id"];
    if (sessionId === undefined && isInitializeRequest(request.body)) {
      const transport = await openSession(sessions, sub);
      return transport.handleRequest(request, response, request.body);
    }
    const session = sessions.get(sessionId);
    // A session id is no credential: it serves the user who opened it and nobody else.
    if (session?.subject !== sub || sessionId === undefined) {
      const message = sessionId === undefined ? "Mcp-Session-Id header is required" : "Session not found";
      return response
        .status(sessionId === undefined ? 400 : 404)
        .json({ jsonrpc: "2.0", error: { code: -32001, message }, id: null });
    }
    return session.transport.handleRequest(request, response, request.body);
  });

  const server = app.listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}/mcp`,
    requests,
    async close() {
      for (const { transport } of sessions.values()) await transport.close();
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

function accessTokenVerifier({ issuer, jwksUri, audience }) {
  const keySet = createRemoteJWKSet(new URL(jwksUri));
  return {
    async verifyAccessToken(token) {
      const { payload, protectedHeader } = await jwtVerify(token, keySet, {
        issuer,
        audience,
        algorithms: ["RS256", "ES256"],
        requiredClaims: ["exp", "sub"],
      }).catch((error) => {
        // A key set that cannot be fetched says nothing about the token.
        if (/^ERR_(JWT|JWS|JWKS_NO|JOSE_ALG)/.test(error.code)) throw new InvalidTokenError(error.message.replaceAll('"', "'"));
        throw error;
      });
      return {
        token,
        clientId: payload.azp ?? payload.client_id,
        scopes: (payload.scp ?? payload.scope ?? "").split(" "),
        expiresAt: payload.exp,
        extra: { claims: payload, header: protectedHeader },
      };
    },
  };
}

async function openSession(sessions, subject) {
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => void sessions.set(id, { transport, subject }),
    onsessionclosed: (id) => void sessions.delete(id),
  });
  await createTools().connect(transport);
  return transport;
}

function createTools() {
  const server = new McpServer({ name: "files", version: "1.0.0" });
  const answer = (value) => ({ content: [{ type: "text", text: value }] });

  server.registerTool("whoami", { description: "Header and claims of the access token that this call arrived with" }, ({ authInfo }) => {
    const { header, claims } = authInfo.extra;
    return answer(JSON.stringify({ header, claims }));
  });
  server.registerTool(
    "echo",
    { description: "Returns its text", inputSchema: { text: z.string() } },
    ({ text }) => answer(text),
  );
  server.registerTool(
    "count",
    {
      description: "Counts, with a progress notification for each step before the result",
      inputSchema: { to: z.number().int().min(1).max(1000), intervalMs: z.number().int().min(0).max(10_000).default(100) },
    },
    async ({ to, intervalMs }, { _meta, sendNotification, signal }) => {
      for (let progress = 1; progress <= to && !signal.aborted; progress += 1) {
        await sleep(intervalMs);
        if (_meta?.progressToken !== undefined) {
          await sendNotification({
            method: "notifications/progress",
            params: { progressToken: _meta.progressToken, progress, total: to },
          });
        }
      }
      return answer(`counted to ${to}`);
    },
  );
  return server;
}
