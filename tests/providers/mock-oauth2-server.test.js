/** The package against mock-oauth2-server of NAV, which many test against: on-behalf-of and token exchange. */

import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { decodeJwt } from "jose";
import { TokenExchanger } from "../../pkg/index.js";
import { failureOf } from "../node/support.js";
import { startMockOAuth2Server } from "./mock-oauth2-server.js";
import { accessTokenType, recordingFetch, skipped, verifier } from "./support.js";

const clientId = "gateway";
const clientSecret = "s3cret:/+ &%=?~";
const scope = "api://mcp-files/tools.call";

describe("mock-oauth2-server", { skip: skipped("MOCK_OAUTH2_SERVER_FOLDER", "MOCK_OAUTH2_SERVER_NOT_RUN") }, () => {
  let server;
  let verified;
  before(async () => {
    server = await startMockOAuth2Server();
    verified = verifier(server);
  });
  after(() => server?.close());

  const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" });
  const authentications = [
    { method: "client_secret_post", clientSecret },
    { method: "client_secret_basic", clientSecret },
    { method: "private_key_jwt", key, algorithm: "RS256" },
  ];
  const exchangerFor = (options) =>
    new TokenExchanger({
      issuer: server.issuer,
      clientId,
      clientAuthentication: authentications[0],
      retry: { delayMs: 20 },
      ...options,
    });

  for (const clientAuthentication of authentications) {
    const { method } = clientAuthentication;

    test(`on-behalf-of with ${method}: the token is the same user's, for the scope`, async () => {
      const exchanger = exchangerFor({ clientAuthentication });
      const request = { assertion: await server.mintUserToken("ada"), scopes: scope };
      const token = await exchanger.exchange(request);
      // This server writes the scope as the audience.
      const claims = await verified(token, scope);
      assert.deepEqual([claims.sub, token.scope, token.source], ["ada", scope, "issuer"]);
      const again = await exchanger.exchange(request);
      assert.deepEqual([again.accessToken, again.source], [token.accessToken, "memory"]);
    });

    test(`token exchange with ${method}: the token is the same user's, for the audience`, async () => {
      const exchanger = exchangerFor({ grant: "token-exchange", clientAuthentication });
      const request = { assertion: await server.mintUserToken("ada"), scopes: [], audience: "mcp-files" };
      const token = await exchanger.exchange(request);
      const claims = await verified(token, "mcp-files");
      assert.deepEqual([claims.sub, token.issuedTokenType, token.source], ["ada", accessTokenType, "issuer"]);
      const again = await exchanger.exchange(request);
      assert.deepEqual([again.accessToken, again.source], [token.accessToken, "memory"]);
    });
  }

  test("a token endpoint is enough", async () => {
    const { fetch, requests } = recordingFetch();
    const exchanger = exchangerFor({ issuer: undefined, tokenEndpoint: server.tokenEndpoint, fetch });
    await verified(await exchanger.exchange({ assertion: await server.mintUserToken("ada"), scopes: scope }), scope);
    assert.deepEqual(requests.map(({ url }) => url), [server.tokenEndpoint]);
  });

  test("each of several audiences is one of the token's", async () => {
    const audience = ["mcp-files", "mcp-mail"];
    const exchanger = exchangerFor({ grant: "token-exchange" });
    const token = await exchanger.exchange({ assertion: await server.mintUserToken("ada"), scopes: [], audience });
    assert.deepEqual(decodeJwt(token.accessToken).aud, audience);
  });

  for (const grant of ["on-behalf-of", "token-exchange"]) {
    test(`many users at once each get their own token (${grant})`, async () => {
      const exchanger = exchangerFor({ grant });
      const users = Array.from({ length: 20 }, (_, index) => `user-${index}`);
      const assertions = await Promise.all(users.map((user) => server.mintUserToken(user)));
      const tokens = await Promise.all(assertions.map((assertion) => exchanger.exchange({ assertion, scopes: scope })));
      assert.deepEqual(tokens.map(({ accessToken }) => decodeJwt(accessToken).sub), users);
    });
  }

  // This server answers 500 to what it cannot parse, as others do to what they did not foresee.
  test("a server that breaks over a token is unavailable, and is asked once more", async () => {
    const { fetch, requests } = recordingFetch();
    const exchanger = exchangerFor({ grant: "token-exchange", tokenEndpoint: server.tokenEndpoint, fetch });
    const failure = await failureOf(exchanger.exchange({ assertion: "opaque", scopes: [], audience: "mcp-files" }));
    assert.deepEqual([failure.reason, failure.status, failure.error], ["unavailable", 500, "server_error"]);
    assert.deepEqual(requests.map(({ url }) => url), [server.tokenEndpoint, server.tokenEndpoint]);
  });
});
