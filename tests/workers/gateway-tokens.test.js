/** Tokens that the gateway must refuse: each is answered rightly, and nothing leaves for anywhere. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { SignJWT, base64url, exportJWK, generateKeyPair } from "jose";
import { parametersOf, publicOrigin, serverOf, startGatewayWorld } from "./fixtures/gateway-world.js";

const metadataUrl = `${publicOrigin}/.well-known/oauth-protected-resource/mcp/files`;
const nothing = { tokenEndpoint: 0, upstream: 0 };
const now = () => Math.floor(Date.now() / 1000);

let world;
before(async () => {
  world = await startGatewayWorld({
    gateways: (parts) => ({
      gateway: {
        servers: {
          files: serverOf(parts),
          mail: serverOf(parts, { inbound: { audience: "api://mail-gateway" }, obo: { scopes: "api://mcp-mail/mail.read" } }),
          elsewhere: serverOf(parts, { inbound: { issuer: "https://login.example/another" } }),
        },
      },
    }),
  });
});
after(() => world.close());
beforeEach(() => world.reset());

function assertInvalidToken({ status, headers }) {
  assert.equal(status, 401);
  assert.equal(headers["cache-control"], "no-store");
  const { error, resource_metadata: metadata, scope } = parametersOf(headers["www-authenticate"]);
  assert.deepEqual({ error, metadata, scope }, { error: "invalid_token", metadata: metadataUrl, scope: "mcp.access" });
  assert.deepEqual(world.reached(), nothing);
}

test("a good token is exchanged and the server gets another one", async () => {
  const token = await world.mint();
  const { status, headers, json } = await world.call({ token, body: "{}" });
  assert.equal(status, 200);
  assert.equal(headers["cache-control"], "no-store");
  assert.match(json().authorization, /^Bearer eyJ/);
  assert.notEqual(json().authorization, `Bearer ${token}`);
  assert.deepEqual(world.reached(), { tokenEndpoint: 1, upstream: 1 });
});

/** What the token is -> how the identity provider mints it. */
const refused = {
  "signed by a foreign key under a known kid": () => ({ foreignKey: true }),
  "signed by a foreign key under an unknown kid": () => ({ foreignKey: true, header: { kid: "unknown" } }),
  "signed by a foreign key without a kid": () => ({ foreignKey: true, header: { kid: undefined } }),
  "expired long ago": () => ({ lifetimeSeconds: -3600 }),
  "expired by more than clocks differ": () => ({ lifetimeSeconds: -40 }),
  "without an expiry": () => ({ claims: { exp: undefined } }),
  "with an expiry that is text": () => ({ claims: { exp: String(now() + 3600) } }),
  "not yet valid": () => ({ claims: { nbf: now() + 600 } }),
  "for another audience": () => ({ audience: "api://another" }),
  "for an audience that begins like ours": () => ({ audience: "api://gateway/" }),
  "for an audience in other letters": () => ({ audience: "API://GATEWAY" }),
  "without an audience": () => ({ claims: { aud: undefined } }),
  "for a list of others": () => ({ audience: ["api://another", "api://mcp-files"] }),
  "of another issuer": () => ({ claims: { iss: "https://login.example/another" } }),
  "of our issuer with a slash more": () => ({ claims: { iss: `${world.identityProvider.issuer}/` } }),
  "without an issuer": () => ({ claims: { iss: undefined } }),
  "unsecured (alg none)": () => ({ header: { alg: "none" } }),
  "signed with the public key as a secret (HS256)": () => ({ header: { alg: "HS256" } }),
  "an id_token, without scopes": () => ({ scopes: null }),
  "with an empty scope": () => ({ scopes: [""] }),
  "an application's own": () => ({ claims: { idtyp: "app" } }),
  "an application's own with roles and no scope": () => ({ scopes: null, claims: { roles: ["mcp.access"] } }),
  "bound to a key that nobody proves": () => ({ claims: { cnf: { jkt: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } } }),
  "of typ id+jwt": () => ({ header: { typ: "id+jwt" } }),
  "of typ dpop+jwt": () => ({ header: { typ: "dpop+jwt" } }),
  "of typ logout+jwt": () => ({ header: { typ: "logout+jwt" } }),
};

describe("a token is refused with invalid_token, and goes nowhere:", () => {
  for (const [what, options] of Object.entries(refused)) {
    test(what, async () => assertInvalidToken(await world.call({ token: await world.mint(options()), body: "{}" })));
  }

  test("with a key of its own in its header", async () => {
    const { privateKey, publicKey } = await generateKeyPair("RS256");
    const claims = { iss: world.identityProvider.issuer, aud: "api://gateway", sub: "ada", scp: "mcp.access", exp: now() + 60 };
    const header = { alg: "RS256", jwk: await exportJWK(publicKey), jku: `${world.upstream.url}/keys`, x5u: `${world.upstream.url}/keys` };
    const token = await new SignJWT(claims).setProtectedHeader(header).sign(privateKey);
    assertInvalidToken(await world.call({ token }));
  });

  test("with claims that were changed after it was signed", async () => {
    const [header, claims, signature] = (await world.mint()).split(".");
    const forged = { ...JSON.parse(Buffer.from(claims, "base64url")), sub: "grace" };
    assertInvalidToken(await world.call({ token: [header, base64url.encode(JSON.stringify(forged)), signature].join(".") }));
  });

  test("an exchanged token that comes back", async () => {
    const { json } = await world.call({ token: await world.mint({ subject: "returns" }) });
    world.reset();
    assertInvalidToken(await world.call({ token: json().authorization.slice("Bearer ".length) }));
  });

  for (const kept of [0.1, 0.5, 0.9, 0.999]) {
    test(`with only ${kept * 100} % of it left`, async () => {
      const token = await world.mint();
      assertInvalidToken(await world.call({ token: token.slice(0, Math.floor(token.length * kept)) }));
    });
  }

  for (const garbage of ["x", "a.b.c", "....", "e30.e30.e30", "eyJhbGciOiJSUzI1NiJ9..", "a.b.c.d.e", "%00", "null", "[object]", "x".repeat(10_000)]) {
    test(`garbage: ${garbage.slice(0, 30)}`, async () => assertInvalidToken(await world.call({ token: garbage })));
  }

  test("two tokens in one header, a good one among them", async () => {
    const token = await world.mint();
    assertInvalidToken(await world.call({ headers: { authorization: `Bearer ${token}, Bearer x` } }));
    assertInvalidToken(await world.call({ headers: { authorization: `Bearer x, Bearer ${token}` } }));
  });
});

test("two Authorization headers are refused, whichever is the good one", async () => {
  const token = await world.mint();
  for (const [first, second] of [[token, "x"], ["x", token]]) {
    const { status } = await world.call({ headers: { authorization: [`Bearer ${first}`, `Bearer ${second}`] } });
    assert.ok(status === 401 || status === 400, `answered ${status}`);
    assert.deepEqual(world.reached(), nothing);
  }
});

for (const size of [64 * 1024, 65 * 1024, 120 * 1024]) {
  test(`a token of ${size / 1024} KiB is refused`, async () => {
    const status = await world.call({ token: "x".repeat(size) }).then(
      (answer) => answer.status,
      // workerd may close the connection on a head that is too large for it.
      (error) => error.code,
    );
    assert.ok([401, 431, 400, "ECONNRESET", "EPIPE"].includes(status), `answered ${status}`);
    assert.deepEqual(world.reached(), nothing);
  });
}

test("a genuine token that has grown past 64 KiB is refused and not exchanged", async () => {
  const token = await world.mint({ claims: { groups: "g".repeat(52_000) } });
  assert.ok(token.length > 64 * 1024);
  const status = await world.call({ token }).then((answer) => answer.status, (error) => error.code);
  assert.ok([401, 431, 400, "ECONNRESET", "EPIPE"].includes(status), `answered ${status}`);
  assert.deepEqual(world.reached(), nothing);
});

test("a token without the required scope is answered 403, with the scopes to ask for", async () => {
  const { status, headers } = await world.call({ token: await world.mint({ scopes: ["mail.read", "mcp.access2"] }) });
  assert.equal(status, 403);
  assert.equal(headers["cache-control"], "no-store");
  assert.deepEqual(parametersOf(headers["www-authenticate"]), {
    error: "insufficient_scope",
    resource_metadata: metadataUrl,
    scope: "mcp.access mail.read mcp.access2",
  });
  assert.deepEqual(world.reached(), nothing);
});

test("who brings no bearer token learns where to get one, without an error code", async () => {
  const token = await world.mint();
  const ways = [{}, { authorization: "" }, { authorization: `Basic ${btoa(`ada:${token}`)}` }, { authorization: token }, { authorization: `DPoP ${token}` }, { "x-authorization": `Bearer ${token}` }, { cookie: `access_token=${token}` }];
  for (const headers of ways) {
    const answer = await world.call({ headers });
    assert.equal(answer.status, 401);
    assert.equal(answer.headers["cache-control"], "no-store");
    assert.deepEqual(parametersOf(answer.headers["www-authenticate"]), { resource_metadata: metadataUrl, scope: "mcp.access" });
  }
  assert.deepEqual(world.reached(), nothing);
});

test("a token in the query or the body is not taken", async () => {
  const token = await world.mint();
  for (const name of ["access_token", "%61ccess_token", "access%5Ftoken"]) {
    const { status, headers } = await world.call({ path: `/mcp/files?${name}=${token}` });
    assert.ok(status === 400 || status === 401, `${name}: answered ${status}`);
    assert.equal(headers["cache-control"], "no-store");
  }
  const form = await world.call({ body: `access_token=${token}`, headers: { "content-type": "application/x-www-form-urlencoded" } });
  assert.equal(form.status, 401);
  assert.deepEqual(world.reached(), nothing);
});

test("a token in the query is refused beside a good one in the header, however its name is written", async () => {
  const token = await world.mint();
  for (const name of ["access_token", "%61ccess_token", "access%5Ftoken"]) {
    const { status } = await world.call({ token, path: `/mcp/files?a=1&${name}=${token}` });
    assert.equal(status, 400, name);
  }
  assert.deepEqual(world.reached(), nothing);
});

test("a token for one server's audience does not open another server of the same issuer", async () => {
  const forFiles = await world.mint();
  const forMail = await world.mint({ audience: "api://mail-gateway" });
  assert.equal((await world.call({ path: "/mcp/mail", token: forFiles })).status, 401);
  assert.equal((await world.call({ path: "/mcp/files", token: forMail })).status, 401);
  assert.deepEqual(world.reached(), nothing);
});

test("a token of one server's issuer does not open a server of another issuer", async () => {
  const { status } = await world.call({ path: "/mcp/elsewhere", token: await world.mint() });
  // The other issuer's keys cannot be had; with them the token would be invalid.
  assert.equal(status, 503);
  assert.deepEqual(world.reached(), nothing);
});

test("a refused token never appears in the log", async () => {
  for (const options of [{ foreignKey: true }, { lifetimeSeconds: -600 }, {}]) {
    const token = await world.mint(options);
    await world.call({ token });
    const [, claims, signature] = token.split(".");
    const revealing = world.logs.filter((line) => line.includes(claims) || (signature && line.includes(signature)));
    assert.deepEqual(revealing, []);
  }
});

test("what a token may be: typ at+jwt or none, a list of audiences, scopes in scope or scp, a scheme in any case", async () => {
  for (const options of [
    { header: { typ: "at+jwt" } },
    { header: { typ: "application/at+JWT" } },
    { header: { typ: undefined } },
    { header: { kid: undefined } },
    { audience: ["api://another", "api://gateway"] },
    { claims: { idtyp: "user" } },
    // Both say that the token is good for now, by clocks that differ a little.
    { claims: { nbf: now() + 20 } },
  ]) {
    const { status, body } = await world.call({ headers: { authorization: `bEARER ${await world.mint(options)}` } });
    // The identity provider's own clock may refuse what the gateway's took.
    if (options.claims?.nbf) assert.notEqual(status, 500);
    else assert.equal(status, 200, `${JSON.stringify(options)}: ${body}`);
  }
});
