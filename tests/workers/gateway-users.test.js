/** Many users, servers and streams at once: each gets what is its own, piece by piece. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { decodeJwt } from "jose";
import { eventually } from "./fixtures/world.js";
import { open, serverOf, startGatewayWorld } from "./fixtures/gateway-world.js";

let world;
let token;
before(async () => {
  world = await startGatewayWorld({
    gateways: (parts) => ({
      gateway: {
        servers: {
          files: serverOf(parts, { url: `${parts.upstream.url}/files` }),
          mail: serverOf(parts, { url: `${parts.upstream.url}/mail`, obo: { scopes: "api://mcp-mail/mail.read" } }),
        },
      },
      stdio: { servers: { files: serverOf(parts, { type: "stdio" }) } },
      websocket: { servers: { files: serverOf(parts, { type: "websocket" }) } },
      plain: { servers: { files: serverOf(parts, { url: "http://files.example/mcp" }) } },
      secretless: { bindings: { OBO_CLIENT_SECRET: undefined } },
      unsealed: { bindings: { OBO_STORE_SECRETS: undefined } },
      broken: { bindings: { OBO_CONFIG: '{"clientSecret":"hunter2"' } },
      empty: { bindings: { OBO_CONFIG: "null" } },
    }),
  });
  token = await world.mint();
});
after(() => world.close());
beforeEach(() => world.reset());

test("interleaved calls of many users to two servers carry tokens of the right user for the right server", async () => {
  const users = await Promise.all(
    Array.from({ length: 20 }, async (_, index) => ({ subject: `user-${index}`, token: await world.mint({ subject: `user-${index}` }) })),
  );
  world.identityProvider.faults.delayMs = 50;
  const calls = Array.from({ length: 240 }, (_, index) => ({ ...users[index % 20], server: index % 3 === 0 ? "mail" : "files" }));
  await Promise.all(calls.map(async ({ subject, token: own, server }, index) => {
    await sleep(Math.random() * 100);
    const { status, json } = await world.call({ path: `/mcp/${server}`, token: own, body: `call ${index}` });
    assert.equal(status, 200);
    const { authorization, body } = json();
    const { sub, aud } = decodeJwt(authorization.slice("Bearer ".length));
    assert.deepEqual({ sub, aud, body }, { sub: subject, aud: `api://mcp-${server}`, body: `call ${index}` });
  }));
  assert.equal(world.reached().tokenEndpoint, 40);
});

test("an event arrives before the server writes the next one", async () => {
  let goOn;
  world.upstream.answer = async (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
    await new Promise((resolve) => (goOn = resolve));
    response.end("data: 2\n\n");
  };
  const response = await open(world.urls.gateway, { method: "GET", token });
  assert.equal(response.headers["cache-control"], "no-store");
  const [first] = await once(response, "data");
  assert.equal(String(first), "data: 1\n\n");
  goOn();
  const [second] = await once(response, "data");
  assert.equal(String(second), "data: 2\n\n");
});

test("a piece of a request arrives before the client writes the next one", async () => {
  const arrived = [];
  world.upstream.answer = async (request, response) => {
    for await (const chunk of request) arrived.push(String(chunk));
    response.end();
  };
  async function* body() {
    yield "one";
    await eventually("the first piece at the server", () => arrived.join("") === "one");
    yield "two";
  }
  const response = await open(world.urls.gateway, { token, body: body() });
  assert.equal(response.statusCode, 200);
  assert.equal(arrived.join(""), "onetwo");
});

test("a client that resets its connection ends the server's stream", async () => {
  let ended = false;
  world.upstream.answer = (_request, response) => {
    response.on("close", () => (ended = true));
    response.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
  };
  const socket = world.socket();
  socket.write(`GET /mcp/files HTTP/1.1\r\nHost: gw.example\r\nAuthorization: Bearer ${token}\r\n\r\n`);
  await once(socket, "data");
  socket.resetAndDestroy();
  await eventually("the end of the server's stream", () => ended, 5000);
});

for (const [gateway, named] of Object.entries({
  stdio: "servers.files.obo",
  websocket: "servers.files.obo",
  plain: "servers.files.url",
  secretless: "clientSecret",
  unsealed: "storeSecrets",
  broken: "OBO_CONFIG",
  empty: "OBO_CONFIG",
})) {
  test(`a configuration error is answered 500 and the log names ${named} and no secret (${gateway})`, async () => {
    world.logs.length = 0;
    const { status, headers, body } = await world.call({ gateway, token, body: "{}" });
    assert.deepEqual([status, headers["cache-control"], body], [500, "no-store", '{"error":"server_error"}']);
    await eventually(`a line that names ${named}, not ${JSON.stringify(world.logs)}`, () => world.logs.some((line) => line.includes(named)), 2000);
    assert.ok(!world.logs.some((line) => /s3cret|hunter2/.test(line)));
    assert.deepEqual(world.reached(), { tokenEndpoint: 0, upstream: 0 });
  });
}
