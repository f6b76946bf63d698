/** The package against npm `oidc-provider`, which checks how each client authenticates: token exchange by discovery. */

import assert from "node:assert/strict";
import { createPrivateKey } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { decodeJwt, importPKCS8 } from "jose";
import { TokenExchanger } from "obo-edge";
import { failureOf } from "../node/support.js";
import { newKey } from "../servers/openssl.js";
import { clientSecret, fetchWith, resources, startOidcProvider } from "./oidc-provider.js";
import { accessTokenType, recordingFetch, verifier } from "./support.js";

const [files, mail] = Object.keys(resources);
const scope = "files.read";

describe("oidc-provider", () => {
  let provider;
  let verified;
  before(async () => {
    provider = await startOidcProvider();
    verified = verifier(provider);
  });
  after(() => provider?.close());

  /** An exchanger whose issuer is all it knows of the provider, for the client whose id is the method's name. */
  const exchangerFor = (clientAuthentication, options) =>
    new TokenExchanger({
      grant: "token-exchange",
      issuer: provider.issuer,
      clientId: clientAuthentication.method,
      clientAuthentication,
      retry: { delayMs: 20 },
      ...options,
    });
  const withSecret = (options) => exchangerFor({ method: "client_secret_basic", clientSecret }, options);
  const withKey = (algorithm, changes, options) =>
    exchangerFor(
      { method: "private_key_jwt", algorithm, key: provider.keys[algorithm], ...changes },
      { clientId: `private_key_jwt-${algorithm}`, ...options },
    );
  const withCertificate = (name, options) =>
    exchangerFor({ method: "tls_client_auth" }, { fetch: fetchWith(provider.certificates[name]), ...options });
  const forFiles = async (subject, changes) => ({
    assertion: await provider.mintUserToken({ subject }),
    scopes: scope,
    resource: files,
    ...changes,
  });

  async function assertExchanges(exchanger, clientId) {
    for (const subject of ["ada", "grace"]) {
      const request = await forFiles(subject);
      const token = await exchanger.exchange(request);
      const claims = await verified(token, files);
      assert.deepEqual([claims.sub, claims.client_id, claims.scope], [subject, clientId, scope]);
      assert.deepEqual([token.scope, token.issuedTokenType, token.source], [scope, accessTokenType, "issuer"]);
      const again = await exchanger.exchange(request);
      assert.deepEqual([again.accessToken, again.source], [token.accessToken, "memory"]);
    }
    assert.deepEqual([exchanger.stats.tokenRequests, exchanger.stats.metadataRequests], [2, 1]);
  }

  async function assertRefused(exchanger, request, reason, error, status = 400) {
    const failure = await failureOf(exchanger.exchange(request));
    assert.deepEqual([failure.reason, failure.error, failure.status], [reason, error, status]);
  }

  for (const [method, proof] of [["client_secret_basic", {}], ["client_secret_post", { client_secret: clientSecret }]]) {
    test(`${method} is accepted, whatever is in the secret`, async () => {
      const { fetch, requests } = recordingFetch();
      await assertExchanges(exchangerFor({ method, clientSecret }, { fetch }), method);
      const { form, headers } = requests.at(-1);
      assert.deepEqual([form.get("client_secret") ?? undefined, headers.has("authorization")], [proof.client_secret, !proof.client_secret]);
    });
  }

  test("a public client says its id only", async () => {
    const { fetch, requests } = recordingFetch();
    await assertExchanges(exchangerFor({ method: "none" }, { fetch }), "none");
    const { form, headers } = requests.at(-1);
    assert.deepEqual(
      [form.get("client_id"), form.has("client_secret"), form.has("client_assertion"), headers.has("authorization")],
      ["none", false, false, false],
    );
  });

  for (const algorithm of ["RS256", "PS256", "ES256"]) {
    const forms = {
      "a PEM": (pem) => pem,
      "a JWK": (pem) => createPrivateKey(pem).export({ format: "jwk" }),
      "a CryptoKey": (pem) => importPKCS8(pem, algorithm),
    };
    for (const [form, keyOf] of Object.entries(forms)) {
      test(`private_key_jwt with ${algorithm} is accepted, its key ${form}`, async () => {
        const exchanger = withKey(algorithm, { key: await keyOf(provider.keys[algorithm]), kid: algorithm });
        await assertExchanges(exchanger, `private_key_jwt-${algorithm}`);
      });
    }
  }

  test("a client assertion that was seen is refused, so an answer that is lost is asked for by a new one", async () => {
    let lost = 0;
    const { fetch: recorded, requests } = recordingFetch((url) => {
      // The provider has answered, and remembers the assertion, when the connection breaks.
      if (url === provider.tokenEndpoint && lost++ === 0) throw new TypeError("the connection is lost");
    });
    const exchanger = withKey("ES256", {}, { fetch: recorded });
    const token = await exchanger.exchange(await forFiles("ada"));
    assert.equal((await verified(token, files)).sub, "ada");
    const sent = requests.filter(({ url }) => url === provider.tokenEndpoint);
    assert.equal(sent.length, 2);
    assert.equal(new Set(sent.map(({ form }) => decodeJwt(form.get("client_assertion")).jti)).size, 2);

    const replay = await fetch(provider.tokenEndpoint, { method: "POST", body: sent[0].form });
    assert.deepEqual([replay.status, (await replay.json()).error], [401, "invalid_client"]);
  });

  test("a client with a certificate is accepted at the alias that is for it, over TLS", async () => {
    const { requests, fetch } = recording(fetchWith(provider.certificates.client));
    await assertExchanges(withCertificate("client", { fetch }), "tls_client_auth");
    const [looks, posts] = [requests.filter((url) => url.startsWith("http:")), requests.filter((url) => url.startsWith("https:"))];
    assert.deepEqual(looks, [`${provider.issuer}/.well-known/openid-configuration`]);
    assert.deepEqual(posts, [provider.mtlsTokenEndpoint, provider.mtlsTokenEndpoint]);
  });

  for (const what of ["no certificate", "the certificate of another subject", "a certificate of another authority"]) {
    test(`a client with ${what} is misconfigured`, async () => {
      await assertRefused(withCertificate(what), await forFiles("ada"), "misconfigured", "invalid_client", 401);
    });
  }

  test("a server whose certificate is not trusted is unavailable", async () => {
    const { key, cert } = provider.certificates.client;
    const exchanger = withCertificate("client", { fetch: fetchWith({ key, cert }) });
    const failure = await failureOf(exchanger.exchange(await forFiles("ada")));
    assert.deepEqual([failure.reason, failure.retryable, failure.status], ["unavailable", true, undefined]);
  });

  for (const method of ["client_secret_basic", "client_secret_post"]) {
    test(`a wrong secret is misconfigured (${method})`, async () => {
      const exchanger = exchangerFor({ method, clientSecret: "not the secret" });
      await assertRefused(exchanger, await forFiles("ada"), "misconfigured", "invalid_client", 401);
    });
  }

  test("a key that is not registered, and one for another algorithm than is registered, are misconfigured", async () => {
    for (const exchanger of [withKey("ES256", { key: newKey("EC") }), withKey("RS256", { algorithm: "PS256" })]) {
      await assertRefused(exchanger, await forFiles("ada"), "misconfigured", "invalid_client", 401);
    }
  });

  test("a client that is not registered, or for another method, is misconfigured", async () => {
    for (const clientId of ["nobody", "private_key_jwt-RS256", "client_secret_post"]) {
      await assertRefused(exchangerFor({ method: "none" }, { clientId }), await forFiles("ada"), "misconfigured", "invalid_client", 401);
    }
  });

  for (const [what, options] of [
    ["has expired", { lifetimeSeconds: -60 }],
    ["was signed by somebody else", { foreignKey: true }],
    ["is for another audience", { audience: "api://elsewhere" }],
  ]) {
    test(`a user's token that ${what} is rejected by the provider`, async () => {
      const request = await forFiles("ada", { assertion: await provider.mintUserToken(options) });
      await assertRefused(withSecret({ inspectAssertion: false }), request, "assertion_rejected", "invalid_request");
    });
  }

  for (const [what, changes, error] of [
    ["a resource that nobody knows", { resource: "https://elsewhere.example" }, "invalid_target"],
    ["an audience that nobody knows", { resource: undefined, audience: "elsewhere" }, "invalid_target"],
    ["more resources than one token is for", { resource: [files, mail] }, "invalid_target"],
    ["a scope of another resource's", { scopes: "mail.read" }, "invalid_scope"],
  ]) {
    test(`${what} is misconfigured`, async () => {
      await assertRefused(withSecret(), await forFiles("ada", changes), "misconfigured", error);
    });
  }

  test("a resource may be named as audience, and without scopes the token has all of them", async () => {
    const token = await withSecret().exchange(await forFiles("ada", { resource: undefined, audience: files, scopes: [] }));
    assert.equal((await verified(token, files)).scope, "files.read files.write");
    assert.equal(token.scope, "files.read files.write");
  });

  test("a token for one resource does not serve for another", async () => {
    const exchanger = withSecret();
    const request = await forFiles("ada");
    await verified(await exchanger.exchange(request), files);
    const other = await exchanger.exchange({ ...request, scopes: "mail.read", resource: mail });
    assert.equal((await verified(other, mail)).scope, "mail.read");
  });
});

/** `send` and where it was sent. */
function recording(send) {
  const requests = [];
  const fetch = (url, init) => {
    requests.push(url);
    return send(url, init);
  };
  return { fetch, requests };
}
