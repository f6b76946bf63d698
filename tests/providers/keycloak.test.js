/** The package against Keycloak: token exchange (RFC 8693), JWT authorization grant (RFC 7523), ID-JAG. */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { SignJWT, decodeJwt, decodeProtectedHeader, importPKCS8 } from "jose";
import { TokenExchanger } from "../../pkg/index.js";
import { failureOf } from "../node/support.js";
import {
  certificateClient, filesAudience, filesScope, keyClients, mailAudience, mailScope, otherAudience, secretClient, startKeycloak,
} from "./keycloak.js";
import { partnerClient, startPartner } from "./partner.js";
import { accessTokenType, recordingFetch, skipped, tokenExchangeGrant, verifier } from "./support.js";

const { clientId, clientSecret } = secretClient;

describe("Keycloak", { skip: skipped("KEYCLOAK_FOLDER", "KEYCLOAK_NOT_RUN") }, () => {
  let partner;
  let keycloak;
  let verified;
  before(async () => {
    partner = await startPartner({ clientIdAtAudience: clientId });
    keycloak = await startKeycloak({ partner });
    verified = verifier(keycloak);
  });
  after(async () => {
    await keycloak?.close();
    await partner?.close();
  });

  /** An exchanger whose issuer is all it knows of Keycloak. */
  const exchangerFor = (options) =>
    new TokenExchanger({
      issuer: keycloak.issuer,
      clientId,
      clientAuthentication: { method: "client_secret_basic", clientSecret },
      grant: "token-exchange",
      retry: { delayMs: 20 },
      ...options,
    });
  /** Options of the client with that id, whose key Keycloak knows. */
  const byKey = ({ clientId: id, algorithm }, changes) => ({
    clientId: id,
    clientAuthentication: { method: "private_key_jwt", key: keycloak.keys[id].pem, kid: keycloak.keys[id].kid, algorithm, ...changes },
  });
  const forFiles = (assertion, changes) => ({ assertion, scopes: filesScope, audience: filesAudience, ...changes });
  const accessToken = async (username, options) => (await keycloak.signIn(username, options)).access_token;

  async function assertUsersOwn(token, username, azp = clientId) {
    const claims = await verified(token, filesAudience);
    assert.deepEqual(
      { aud: claims.aud, sub: claims.sub, azp: claims.azp, scope: claims.scope },
      { aud: filesAudience, sub: keycloak.users[username], azp, scope: filesScope },
    );
  }

  async function assertRefused(exchange, reason, status, error) {
    const failure = await failureOf(exchange);
    assert.deepEqual(
      { reason: failure.reason, status: failure.status, error: failure.error },
      { reason, status, error },
    );
  }

  describe("token exchange", () => {
    test("an issuer is enough: its metadata says where tokens are made", async () => {
      const { fetch, requests } = recordingFetch();
      const token = await exchangerFor({ fetch }).exchange(forFiles(await accessToken("ada")));
      await assertUsersOwn(token, "ada");
      assert.equal(requests.at(-1).url, keycloak.tokenEndpoint);
      assert.equal(token.scope, filesScope);
      assert.equal(token.issuedTokenType, accessTokenType);
      assert.equal(token.source, "issuer");
    });

    test("a token endpoint is enough", async () => {
      const { fetch, requests } = recordingFetch();
      const exchanger = exchangerFor({ issuer: undefined, tokenEndpoint: keycloak.tokenEndpoint, fetch });
      await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken("ada"))), "ada");
      assert.deepEqual(requests.map(({ url }) => url), [keycloak.tokenEndpoint]);
    });

    test("an issuer with one slash too many is not believed to be the same", async () => {
      const { fetch, requests } = recordingFetch();
      const exchanger = exchangerFor({ issuer: `${keycloak.issuer}/`, fetch });
      const failure = await failureOf(exchanger.exchange(forFiles(await accessToken("ada"))));
      assert.equal(failure.reason, "misconfigured");
      assert.deepEqual(requests.filter(({ url }) => url === keycloak.tokenEndpoint), []);
    });

    for (const method of ["client_secret_post", "client_secret_basic"]) {
      test(`${method} is accepted, whatever is in the secret`, async () => {
        const exchanger = exchangerFor({ clientAuthentication: { method, clientSecret } });
        await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken("ada"))), "ada");
      });
    }

    for (const client of keyClients) {
      const { clientId: id, algorithm } = client;
      const forms = {
        "a PEM": () => keycloak.keys[id].pem,
        "a JWK": () => keycloak.keys[id].jwk,
        "a CryptoKey": () => importPKCS8(keycloak.keys[id].pem, algorithm),
      };
      for (const [form, key] of Object.entries(forms)) {
        test(`private_key_jwt with ${algorithm} is accepted, its key ${form}`, async () => {
          const exchanger = exchangerFor(byKey(client, { key: await key() }));
          await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken("ada"))), "ada", id);
        });
      }

      test(`private_key_jwt with ${algorithm} is accepted without a kid`, async () => {
        const exchanger = exchangerFor(byKey(client, { kid: undefined }));
        await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken("ada"))), "ada", id);
      });

      test(`the key of another client is misconfigured (${algorithm})`, async () => {
        const stranger = (await crypto.subtle.generateKey(...newKeyLike(algorithm))).privateKey;
        const exchanger = exchangerFor(byKey(client, { key: stranger }));
        await assertRefused(exchanger.exchange(forFiles(await accessToken("ada"))), "misconfigured", 400, "invalid_client");
      });
    }

    test("private_key_jwt with a certificate is accepted", async () => {
      const { privateKey: key, certificate } = await keycloak.newCertificate();
      const { clientId: id, algorithm } = certificateClient;
      const { fetch, requests } = recordingFetch();
      const exchanger = exchangerFor({
        clientId: id,
        clientAuthentication: { method: "private_key_jwt", key, certificate, algorithm },
        fetch,
      });
      await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken("ada"))), "ada", id);
      const header = decodeProtectedHeader(requests.at(-1).form.get("client_assertion"));
      assert.deepEqual([header.alg, typeof header["x5t#S256"], header.kid], [algorithm, "string", undefined]);
    });

    test("a client assertion of the operator's own is accepted", async () => {
      const [{ clientId: id, algorithm }] = keyClients;
      const key = await importPKCS8(keycloak.keys[id].pem, algorithm);
      const clientAssertion = () =>
        new SignJWT({ iss: id, sub: id, aud: keycloak.issuer, jti: randomUUID() })
          .setProtectedHeader({ alg: algorithm })
          .setIssuedAt()
          .setExpirationTime("1m")
          .sign(key);
      const exchanger = exchangerFor({ clientId: id, clientAuthentication: { method: "client_assertion", clientAssertion } });
      await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken("ada"))), "ada", id);
    });

    test("each request has a client assertion of its own, as Keycloak takes none twice", async () => {
      const [client] = keyClients;
      const { fetch: recorded, requests } = recordingFetch();
      const exchanger = exchangerFor({ ...byKey(client), fetch: recorded });
      for (const username of ["ada", "grace"]) {
        await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken(username))), username, client.clientId);
      }
      const [first, second] = requests.filter(({ url }) => url === keycloak.tokenEndpoint);
      assert.notEqual(decodeJwt(first.form.get("client_assertion")).jti, decodeJwt(second.form.get("client_assertion")).jti);

      const replay = await fetch(keycloak.tokenEndpoint, { method: "POST", body: first.form });
      assert.equal(replay.status, 400);
      assert.deepEqual(await replay.json(), { error: "invalid_client", error_description: "Token reuse detected" });
    });

    test("an answer that is lost is asked for again, by a client assertion that Keycloak has not seen", async () => {
      const [client] = keyClients;
      let lost = 0;
      const { fetch, requests } = recordingFetch((url) => {
        // Keycloak has answered, and has the assertion in its list, when the connection breaks.
        if (url === keycloak.tokenEndpoint && lost++ === 0) throw new TypeError("the connection is lost");
      });
      const exchanger = exchangerFor({ ...byKey(client), fetch });
      await assertUsersOwn(await exchanger.exchange(forFiles(await accessToken("ada"))), "ada", client.clientId);
      assert.equal(requests.filter(({ url }) => url === keycloak.tokenEndpoint).length, 2);
    });

    test("two users never get each other's token, and the second time it comes from memory", async () => {
      const { fetch, requests } = recordingFetch();
      const exchanger = exchangerFor({ fetch });
      const assertions = { ada: await accessToken("ada"), grace: await accessToken("grace") };
      const exchangeBoth = () =>
        Promise.all(Object.entries(assertions).map(async ([username, assertion]) => {
          const token = await exchanger.exchange(forFiles(assertion));
          await assertUsersOwn(token, username);
          return token;
        }));
      const first = await exchangeBoth();
      const second = await exchangeBoth();
      assert.deepEqual(first.map(({ source }) => source), ["issuer", "issuer"]);
      assert.deepEqual(second.map(({ source }) => source), ["memory", "memory"]);
      assert.deepEqual(second.map(({ accessToken: text }) => text), first.map(({ accessToken: text }) => text));
      assert.equal(requests.filter(({ url }) => url === keycloak.tokenEndpoint).length, 2);
    });

    test("a token for one audience does not serve for another, and one may be for both", async () => {
      const exchanger = exchangerFor();
      const assertion = await accessToken("ada");
      const audiencesOf = async (changes) => {
        const token = await exchanger.exchange(forFiles(assertion, changes));
        return [decodeJwt(token.accessToken).aud].flat().sort();
      };
      const both = { scopes: [filesScope, mailScope], audience: [filesAudience, mailAudience] };
      assert.deepEqual(await audiencesOf({}), [filesAudience]);
      assert.deepEqual(await audiencesOf({ scopes: mailScope, audience: mailAudience }), [mailAudience]);
      assert.deepEqual(await audiencesOf(both), [filesAudience, mailAudience]);
      // The scope alone brings both audiences; the parameter leaves one of them.
      assert.deepEqual(await audiencesOf({ ...both, audience: undefined }), [filesAudience, mailAudience]);
      assert.deepEqual(await audiencesOf({ ...both, audience: mailAudience }), [mailAudience]);
    });

    test("no scope need be named", async () => {
      const { fetch, requests } = recordingFetch();
      const token = await exchangerFor({ fetch }).exchange({ assertion: await accessToken("ada"), scopes: [] });
      const claims = await verified(token);
      assert.deepEqual([claims.sub, claims.aud], [keycloak.users.ada, undefined]);
      const { form } = requests.at(-1);
      assert.deepEqual([form.get("grant_type"), form.has("scope"), form.has("audience")], [tokenExchangeGrant, false, false]);
    });

    test("a user's token that has expired is rejected by Keycloak too", async () => {
      const assertion = await accessToken("ada", { clientId: "login-briefly" });
      while (Date.now() / 1000 <= decodeJwt(assertion).exp + 1) await sleep(50);
      const exchanger = exchangerFor({ inspectAssertion: false });
      await assertRefused(exchanger.exchange(forFiles(assertion)), "assertion_rejected", 400, "invalid_request");
    });

    test("a user's token that was revoked is rejected", async () => {
      const assertion = await accessToken("ada");
      await keycloak.revoke(assertion);
      await assertRefused(exchangerFor().exchange(forFiles(assertion)), "assertion_rejected", 400, "invalid_request");
    });

    test("a user's token that somebody else signed is rejected", async () => {
      const [header, , signature] = (await accessToken("grace")).split(".");
      const [, payload] = (await accessToken("ada")).split(".");
      const forged = [header, payload, signature].join(".");
      await assertRefused(exchangerFor().exchange(forFiles(forged)), "assertion_rejected", 400, "invalid_request");
    });

    test("an ID token in the place of an access token is rejected by Keycloak too", async () => {
      const { id_token: assertion } = await keycloak.signIn("ada", { scope: "openid" });
      const exchanger = exchangerFor({ inspectAssertion: false });
      await assertRefused(exchanger.exchange(forFiles(assertion)), "assertion_rejected", 400, "invalid_request");
    });

    // Keycloak has `access_denied` for it, as for a policy: the two cannot be told apart.
    test("a user's token for another audience is blocked", async () => {
      const assertion = await accessToken("ada", { clientId: "login-elsewhere" });
      assert.equal(decodeJwt(assertion).aud, otherAudience);
      await assertRefused(exchangerFor().exchange(forFiles(assertion)), "blocked", 403, "access_denied");
    });

    for (const method of ["client_secret_post", "client_secret_basic"]) {
      test(`a wrong secret is misconfigured (${method})`, async () => {
        const exchanger = exchangerFor({ clientAuthentication: { method, clientSecret: "not the secret" } });
        await assertRefused(exchanger.exchange(forFiles(await accessToken("ada"))), "misconfigured", 401, "unauthorized_client");
      });
    }

    test("a client that is not registered is misconfigured", async () => {
      const exchanger = exchangerFor({ clientId: "nobody" });
      await assertRefused(exchanger.exchange(forFiles(await accessToken("ada"))), "misconfigured", 401, "invalid_client");
    });

    test("an audience that no client has is misconfigured", async () => {
      const request = forFiles(await accessToken("ada"), { audience: "nobody" });
      await assertRefused(exchangerFor().exchange(request), "misconfigured", 400, "invalid_client");
    });

    test("a scope that the client does not have is misconfigured", async () => {
      const request = forFiles(await accessToken("ada"), { scopes: "files.burn" });
      await assertRefused(exchangerFor().exchange(request), "misconfigured", 400, "invalid_scope");
    });

    // Keycloak has `invalid_request` for it, which RFC 8693 has for the user's token: the two cannot be told apart.
    test("an audience that no scope of the client's brings looks like a user's token that is rejected", async () => {
      const request = forFiles(await accessToken("ada"), { audience: otherAudience });
      await assertRefused(exchangerFor().exchange(request), "assertion_rejected", 400, "invalid_request");
    });
  });

  describe("JWT authorization grant", () => {
    const grant = "jwt-bearer";
    const assertionFor = (username, audience = keycloak.issuer) => partner.mintAssertion(username, audience);

    test("each user of another issuer gets a token of their own", async () => {
      const exchanger = exchangerFor({ grant });
      for (const username of ["ada", "grace"]) {
        const token = await exchanger.exchange({ assertion: await assertionFor(username), scopes: filesScope });
        await assertUsersOwn(token, username);
        assert.equal(token.source, "issuer");
      }
    });

    for (const client of keyClients) {
      test(`private_key_jwt with ${client.algorithm} is accepted`, async () => {
        const exchanger = exchangerFor({ grant, ...byKey(client) });
        const token = await exchanger.exchange({ assertion: await assertionFor("ada"), scopes: filesScope });
        await assertUsersOwn(token, "ada", client.clientId);
      });
    }

    test("an assertion is taken once, so the second time memory has to have the token", async () => {
      const exchanger = exchangerFor({ grant });
      // Longer than the memory's margin before an assertion's end.
      const request = { assertion: await partner.mintAssertion("ada", keycloak.issuer, 3000), scopes: filesScope };
      const first = await exchanger.exchange(request);
      const second = await exchanger.exchange(request);
      assert.deepEqual([first.source, second.source, second.accessToken], ["issuer", "memory", first.accessToken]);
      await assertRefused(exchanger.exchange({ ...request, fromCache: false }), "assertion_rejected", 400, "invalid_grant");
    });

    const refusals = {
      "has expired": () => partner.mintAssertion("ada", keycloak.issuer, -60),
      "is for another server": () => assertionFor("ada", "https://login.example"),
      "is of a user whom nobody knows": () => assertionFor("nobody"),
      "is of an issuer that is not trusted": () => accessToken("ada"),
    };
    for (const [what, mint] of Object.entries(refusals)) {
      test(`an assertion that ${what} is rejected`, async () => {
        const exchanger = exchangerFor({ grant, inspectAssertion: false });
        const exchange = exchanger.exchange({ assertion: await mint(), scopes: filesScope });
        await assertRefused(exchange, "assertion_rejected", 400, "invalid_grant");
      });
    }

    test("a wrong secret is misconfigured", async () => {
      const clientAuthentication = { method: "client_secret_post", clientSecret: "not the secret" };
      const exchange = exchangerFor({ grant, clientAuthentication }).exchange({ assertion: await assertionFor("ada"), scopes: filesScope });
      await assertRefused(exchange, "misconfigured", 401, "unauthorized_client");
    });
  });

  describe("identity assertion", () => {
    const resource = "https://files.example/mcp";
    const exchangerAt = (atKeycloak) =>
      new TokenExchanger({
        grant: "identity-assertion",
        issuer: partner.issuer,
        clientId: partnerClient.clientId,
        clientAuthentication: { method: "client_secret_post", clientSecret: partnerClient.clientSecret },
        resourceAuthorizationServer: {
          issuer: keycloak.issuer,
          clientId,
          clientAuthentication: { method: "client_secret_basic", clientSecret },
          ...atKeycloak,
        },
        retry: { delayMs: 20 },
      });

    test("an ID token of another issuer ends as Keycloak's access token of the same user", async () => {
      const exchanger = exchangerAt();
      for (const username of ["ada", "grace"]) {
        const request = { assertion: await partner.mintIdToken(username), scopes: filesScope, resource };
        await assertUsersOwn(await exchanger.exchange(request), username);
      }
    });

    // The client's id in the assertion is what tells it from a plain JWT of RFC 7523.
    test("an assertion that was made for another client is rejected", async () => {
      const [client] = keyClients;
      const request = { assertion: await partner.mintIdToken("ada"), scopes: filesScope, resource };
      const failure = await failureOf(exchangerAt(byKey(client)).exchange(request));
      assert.deepEqual([failure.status, failure.error], [400, "invalid_grant"]);
    });
  });
});

/** The arguments with which Web Crypto makes a key for an algorithm. */
function newKeyLike(algorithm) {
  const kinds = {
    RS256: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256", modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]) },
    PS256: { name: "RSA-PSS", hash: "SHA-256", modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]) },
    ES256: { name: "ECDSA", namedCurve: "P-256" },
  };
  return [kinds[algorithm], false, ["sign"]];
}
