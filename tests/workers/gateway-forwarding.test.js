/** What passes between client and server, and what does not, in either direction. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { open, parametersOf, publicOrigin, serverOf, startGatewayWorld } from "./fixtures/gateway-world.js";

const nothing = { tokenEndpoint: 0, upstream: 0 };

let world;
let token;
before(async () => {
  world = await startGatewayWorld({
    gateways: (parts) => ({
      gateway: {
        servers: {
          files: serverOf(parts),
          // Port 9 is discard's: nobody listens.
          away: serverOf(parts, { url: "http://127.0.0.1:9/mcp" }),
        },
      },
    }),
  });
  token = await world.mint();
});
after(() => world.close());
beforeEach(() => world.reset());

test("headers of MCP reach the server as they are, and the path and query of its URL are its own", async () => {
  const headers = {
    accept: "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": "2025-06-18",
    "mcp-session-id": "session 1",
    "mcp-param-path": "a/b",
    "last-event-id": "7",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
  };
  const { json } = await world.call({ token, path: "/mcp/files?debug=1", headers, body: '{"é":1}' });
  const [{ headers: arrived, url, method }] = world.upstream.requests;
  for (const [name, value] of Object.entries(headers)) assert.equal(arrived[name], value, name);
  assert.deepEqual({ url, method, body: json().body }, { url: "/mcp", method: "POST", body: '{"é":1}' });
});

test("credentials, cookies and headers of proxies never reach the server", async () => {
  const withheld = {
    cookie: "session=secret",
    cookie2: "session=secret",
    "proxy-authorization": "Basic secret",
    "proxy-connection": "keep-alive",
    "cf-connecting-ip": "198.51.100.7",
    "cf-access-jwt-assertion": "secret",
    "cf-access-client-secret": "secret",
    "cf-ray": "secret",
    "x-forwarded-for": "198.51.100.7",
    "x-forwarded-host": "evil.example",
    "x-forwarded-proto": "https",
    "x-real-ip": "198.51.100.7",
    forwarded: "for=198.51.100.7",
    "true-client-ip": "198.51.100.7",
    "x-authorization": `Bearer ${token}`,
    "x-api-key": "secret",
    "x-original-url": "/admin",
    "x-http-method-override": "DELETE",
    origin: "https://evil.example",
    referer: `https://evil.example/?access_token=${token}`,
    te: "trailers",
    "mcp-param-": "empty",
  };
  assert.equal((await world.call({ token, headers: withheld, body: "{}" })).status, 200);
  const [{ headers, rawHeaders }] = world.upstream.requests;
  for (const name of Object.keys(withheld)) assert.equal(headers[name], undefined, name);
  // The runtime itself adds cf-worker to every request of a Worker.
  const foreign = Object.keys(headers).filter((name) => /^(cf-(?!worker$)|x-forwarded|proxy-|cookie|cdn-loop)/.test(name));
  assert.deepEqual(foreign, []);
  assert.ok(!rawHeaders.join("\n").includes(token));
  assert.equal(rawHeaders.filter((name) => name.toLowerCase() === "authorization").length, 1);
});

test("headers that the client names in Connection do not carry the inbound token", async () => {
  const headers = { connection: "close, authorization, mcp-session-id", "mcp-session-id": "1" };
  await world.call({ token, headers, body: "{}" });
  assert.ok(!world.upstream.requests[0].rawHeaders.join("\n").includes(token));
});

const withheldDownstream = {
  "set-cookie": ["a=1", "b=2; HttpOnly"],
  "www-authenticate": 'Bearer realm="upstream"',
  "proxy-authenticate": "Basic",
  location: "https://evil.example/",
  "access-control-allow-origin": "*",
  "access-control-allow-credentials": "true",
  "access-control-expose-headers": "*",
  "alt-svc": 'h3="evil.example:443"',
  "strict-transport-security": "max-age=31536000",
  "cache-control": "public, max-age=31536000",
  "clear-site-data": '"*"',
  refresh: "0; url=https://evil.example/",
  link: "<https://evil.example/>; rel=preload",
  server: "upstream/1",
  "x-powered-by": "upstream",
  etag: '"1"',
  expires: "Fri, 01 Jan 2100 00:00:00 GMT",
};

for (const status of [200, 403]) {
  test(`headers that speak for another origin never come back (${status})`, async () => {
    world.upstream.answer = (request, response) => {
      request.resume();
      response.writeHead(status, { ...withheldDownstream, "content-type": "application/json", "mcp-session-id": "1", "retry-after": "7" });
      response.end("{}");
    };
    const answer = await world.call({ token, body: "{}" });
    assert.equal(answer.status, status);
    for (const name of Object.keys(withheldDownstream)) {
      if (name !== "cache-control") assert.equal(answer.headers[name], undefined, name);
    }
    const { "cache-control": cacheControl, "content-type": type, "mcp-session-id": session, "retry-after": retry } = answer.headers;
    assert.deepEqual({ cacheControl, type, session, retry }, { cacheControl: "no-store", type: "application/json", session: "1", retry: "7" });
  });
}

for (const status of [400, 403, 404, 405, 409, 429, 500, 503]) {
  test(`the server's ${status} and its body pass`, async () => {
    world.upstream.answer = (request, response) => {
      request.resume();
      response.writeHead(status, { "content-type": "application/json" }).end(`{"status":${status}}`);
    };
    const answer = await world.call({ token, body: "{}" });
    assert.deepEqual({ status: answer.status, body: answer.body }, { status, body: `{"status":${status}}` });
    assert.equal(answer.headers["cache-control"], "no-store");
  });
}

for (const status of [202, 204, 205]) {
  test(`the server's ${status} without a body passes`, async () => {
    world.upstream.answer = (request, response) => {
      request.resume();
      response.writeHead(status).end();
    };
    const answer = await world.call({ token, body: "{}" });
    assert.deepEqual({ status: answer.status, body: answer.body, cache: answer.headers["cache-control"] }, { status, body: "", cache: "no-store" });
  });
}

for (const [status, headers] of [
  [401, { "www-authenticate": 'Bearer error="invalid_token"' }],
  [407, { "proxy-authenticate": "Basic" }],
  [300, {}],
  [301, { location: "/stolen" }],
  [302, { location: "/stolen" }],
  [303, { location: "/stolen" }],
  [304, {}],
  [307, { location: "/stolen" }],
  [308, { location: "/stolen" }],
]) {
  test(`the server's ${status} is answered 502, is not followed, and its words stay`, async () => {
    world.upstream.answer = (request, response) => {
      request.resume();
      response.writeHead(status, headers).end(status === 304 ? undefined : "words of the server");
    };
    const answer = await world.call({ token, body: "{}" });
    assert.equal(answer.status, 502);
    assert.equal(answer.headers["cache-control"], "no-store");
    assert.equal(answer.headers["www-authenticate"], undefined);
    assert.equal(answer.headers.location, undefined);
    assert.ok(!answer.body.includes("words of the server"));
    // A 401 to a token from a cache is tried once more with a fresh one.
    assert.equal(world.reached().upstream, status === 401 ? 2 : 1);
  });
}

test("a server that is down is answered 502", async () => {
  const answer = await world.call({ token, path: "/mcp/away", body: "{}" });
  assert.equal(answer.status, 502);
  assert.equal(answer.headers["cache-control"], "no-store");
  assert.ok(!answer.body.includes("127.0.0.1"), "the address of the server is nobody's business");
});

test("a server that resets before it answers is answered 502", async () => {
  world.upstream.answer = (request) => request.socket.resetAndDestroy();
  const answer = await world.call({ token, body: "{}" });
  assert.deepEqual([answer.status, answer.headers["cache-control"]], [502, "no-store"]);
});

test("a server that answers what is no HTTP is answered 502", async () => {
  world.upstream.answer = (request) => request.socket.end("no HTTP at all\r\n\r\n");
  assert.equal((await world.call({ token, body: "{}" })).status, 502);
});

test("a server that resets in the middle of its answer leaves no answer that looks whole", async () => {
  world.upstream.answer = (request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("data: first\n\n");
    setTimeout(() => request.socket.resetAndDestroy(), 100);
  };
  const response = await open(world.urls.gateway, { token, body: "{}" });
  assert.equal(response.headers["cache-control"], "no-store");
  response.on("error", () => {});
  response.resume();
  await new Promise((resolve) => response.on("close", resolve));
  // workerd 1.20260426 ends a cut answer as if it were whole, for a Worker that only returns `fetch(…)` too.
  if (process.env.MINIFLARE_PACKAGE !== "miniflare-20260426") assert.equal(response.complete, false);
  // And the gateway goes on.
  world.upstream.reset();
  assert.equal((await world.call({ token, body: "{}" })).status, 200);
});

test("a compressed answer arrives readable", async () => {
  world.upstream.answer = (request, response) => {
    request.resume();
    response.writeHead(200, { "content-type": "application/json", "content-encoding": "gzip" }).end(gzipSync('{"plain":true}'));
  };
  assert.deepEqual((await world.call({ token, body: "{}" })).json(), { plain: true });
});

test("a compressed request passes as it is", async () => {
  const body = [];
  world.upstream.answer = async (request, response) => {
    for await (const chunk of request) body.push(chunk);
    response.end();
  };
  const sent = gzipSync("{}");
  await world.call({ token, headers: { "content-encoding": "gzip" }, body: [sent] });
  assert.equal(world.upstream.requests[0].headers["content-encoding"], "gzip");
  assert.deepEqual(Buffer.concat(body), sent);
});

test("GET and DELETE pass with the exchanged token", async () => {
  for (const method of ["GET", "DELETE"]) {
    assert.equal((await world.call({ method, token })).status, 200);
    const { method: arrived, headers } = world.upstream.requests.pop();
    assert.equal(arrived, method);
    assert.notEqual(headers.authorization, `Bearer ${token}`);
  }
});

test("other methods are refused and go nowhere", async () => {
  for (const method of ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE"]) {
    const { status, headers } = await world.call({ method, token });
    // workerd itself may refuse TRACE.
    assert.ok(status === 405 || (method === "TRACE" && status >= 400), `${method}: ${status}`);
    if (method !== "TRACE") assert.equal(headers["cache-control"], "no-store", method);
  }
  assert.deepEqual(world.reached(), nothing);
});

test("an upgrade to a websocket does not pass", async () => {
  const headers = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13" };
  const { status } = await world.call({ method: "GET", token, headers });
  assert.notEqual(status, 101);
  assert.equal(world.upstream.requests[0]?.headers.upgrade, undefined);
});

describe("places", () => {
  for (const path of [
    "/",
    "/mcp",
    "/mcp/",
    "/mcp/unknown",
    "/mcp/files/",
    "/mcp/files/x",
    "/mcp/FILES",
    "/MCP/files",
    "//mcp/files",
    "/mcp//files",
    "/mcp/%66iles",
    "/mcp/files%00",
    "/mcp/files%2f..",
    "/mcp/files;x=1",
    "/mcp/__proto__",
    "/mcp/constructor",
    "/mcp/toString",
    "/mcp/files/../unknown",
    "//evil.example/mcp/files",
  ]) {
    test(`there is no server at ${path}`, async () => {
      const { status, headers } = await world.call({ path, token, body: "{}" });
      assert.equal(status, 404);
      assert.equal(headers["cache-control"], "no-store");
      assert.deepEqual(world.reached(), nothing);
    });
  }

  test("a path that leads back to the server's own is the server's own, token and all", async () => {
    for (const path of ["/mcp/unknown/../files", "/mcp/unknown/%2e%2e/files", "/mcp\\files"]) {
      assert.equal((await world.call({ path })).status, 401, path);
    }
    assert.deepEqual(world.reached(), nothing);
  });
});

test("a forged Host or X-Forwarded-Host changes neither the challenge nor the metadata", async () => {
  for (const headers of [{ host: "evil.example" }, { host: "gw.example:1", "x-forwarded-host": "evil.example", "x-forwarded-proto": "http" }]) {
    const { headers: answered } = await world.call({ headers });
    const { resource_metadata: url } = parametersOf(answered["www-authenticate"]);
    assert.equal(url, `${publicOrigin}/.well-known/oauth-protected-resource/mcp/files`);
    const metadata = await world.call({ method: "GET", path: new URL(url).pathname, headers });
    assert.ok(!metadata.body.includes("evil.example"));
    assert.equal(metadata.json().resource, `${publicOrigin}/mcp/files`);
  }
});

test("an absolute request target of another host does not change the challenge", async () => {
  const { headers } = await world.call({ path: "http://evil.example/mcp/files" });
  if (headers["www-authenticate"]) assert.ok(!headers["www-authenticate"].includes("evil.example"));
});

test("the metadata of a server is public, and there is none of an unknown one", async () => {
  const path = "/.well-known/oauth-protected-resource/mcp/files";
  const { status, headers, json } = await world.call({ method: "GET", path });
  assert.equal(status, 200);
  assert.equal(headers["access-control-allow-origin"], "*");
  assert.deepEqual(json(), {
    resource: `${publicOrigin}/mcp/files`,
    authorization_servers: [world.identityProvider.issuer],
    scopes_supported: ["mcp.access"],
    bearer_methods_supported: ["header"],
    resource_name: "files",
  });
  assert.equal((await world.call({ method: "GET", path: path.replace("files", "unknown") })).status, 404);
  assert.equal((await world.call({ method: "POST", path })).status, 405);
  assert.equal((await world.call({ method: "OPTIONS", path })).status, 204);
  assert.deepEqual(world.reached(), nothing);
});
