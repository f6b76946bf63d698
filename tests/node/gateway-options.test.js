/** What a gateway refuses of its exchanger's options. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createGateway } from "../../pkg/gateway.js";
import { ExchangeError } from "../../pkg/index.js";

const authentication = { method: "client_secret_post", clientSecret: "hunter2" };
const at = (host) => ({ issuer: `https://${host}.example`, clientId: "gateway", clientAuthentication: authentication });

function gateway(exchanger) {
  return createGateway({
    publicOrigin: "https://gw.example",
    servers: {
      files: {
        type: "streamable-http",
        url: "https://files.example/mcp",
        inbound: { issuer: "https://login.example", audience: "api://gateway", scopes: "mcp.access" },
        obo: { scopes: "files.read" },
      },
    },
    exchanger: { ...at("login"), ...exchanger },
  });
}

test("a gateway cannot exchange identity assertions, which it does not hold", () => {
  const options = { grant: "identity-assertion", resourceAuthorizationServer: at("resource") };
  assert.throws(() => gateway(options), (error) => {
    assert.ok(error instanceof ExchangeError);
    assert.deepEqual([error.reason, error.field], ["misconfigured", "exchanger.grant"]);
    return true;
  });
});

for (const grant of [undefined, "on-behalf-of", "token-exchange", "jwt-bearer"]) {
  test(`a gateway may use the grant ${grant ?? "of the default"}`, () => {
    assert.equal(typeof gateway({ grant }).fetch, "function");
  });
}

test("an unknown grant is named by the exchanger", () => {
  assert.throws(() => gateway({ grant: "password" }), { reason: "misconfigured", field: "grant" });
});
