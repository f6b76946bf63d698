/**
 * mock-oauth2-server of NAV as a child process. It checks next to nothing, so it proves what a request looks like to
 * a parser that others wrote, not that a wrong one is refused.
 *
 * `MOCK_OAUTH2_SERVER_FOLDER` has its jars, `JAVA` is the Java that runs it; `cargo xtask test --servers` sets both.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { freePort } from "../servers/gateway.js";
import { startServer } from "./child.js";

/** The server has an issuer for every first segment of a path. */
const issuerId = "default";
const mainClass = "no.nav.security.mock.oauth2.StandaloneMockOAuth2ServerKt";

export async function startMockOAuth2Server() {
  const port = await freePort();
  const issuer = `http://127.0.0.1:${port}/${issuerId}`;
  const { close } = await startServer({
    name: "mock-oauth2-server",
    program: process.env.JAVA ?? "java",
    args: ["-Xmx256m", "-cp", join(process.env.MOCK_OAUTH2_SERVER_FOLDER, "*"), mainClass],
    env: {
      SERVER_HOSTNAME: "127.0.0.1",
      SERVER_PORT: String(port),
      JSON_CONFIG: JSON.stringify({ httpServer: "NettyWrapper" }),
    },
    readyUrl: `http://127.0.0.1:${port}/isalive`,
  });
  const tokenEndpoint = `${issuer}/token`;
  return {
    issuer,
    tokenEndpoint,
    jwksUri: `${issuer}/jwks`,

    /** An access token for the gateway; the server believes any password. */
    async mintUserToken(username) {
      const form = { grant_type: "password", client_id: "login", username, password: "any", scope: "gateway" };
      const response = await fetch(tokenEndpoint, { method: "POST", body: new URLSearchParams(form) });
      assert.equal(response.status, 200);
      return (await response.json()).access_token;
    },

    close,
  };
}
