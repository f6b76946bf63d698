// A user's token that can only be refused is refused without a round trip, and an operator may switch that off.
import assert from "node:assert/strict";
import { test } from "node:test";
import { TokenExchanger } from "obo-edge";
import { exchangeAt, exchangerFor, failureUnsent, localIssuer, misconfigured, optionsFor, outline } from "./local-issuer.js";
import { thrownBy, unsignedToken } from "./support.js";

const now = () => Math.floor(Date.now() / 1000);
const clientId = "11112222-bbbb-3333-cccc-4444dddd5555";
const otherClient = "99998888-bbbb-3333-cccc-4444dddd5555";
const entra = { iss: "https://login.microsoftonline.com/66667777-bbbb-3333-cccc-4444dddd5555/v2.0", scp: "mcp.access" };
const idTokenType = "urn:ietf:params:oauth:token-type:id_token";
const rejected = { reason: "assertion_rejected", field: "assertion", retryable: false };

for (const [what, claims, grant] of [
  ["has expired", { exp: now() - 60 }, "on-behalf-of"],
  ["has expired", { exp: now() - 60 }, "token-exchange"],
  ["has expired", { exp: now() - 60 }, "jwt-bearer"],
  ["expires at this moment", { exp: now() + 1 }, "on-behalf-of"],
  ["is not valid yet", { nbf: now() + 3600 }, "on-behalf-of"],
  ["is not valid yet", { nbf: now() + 3600 }, "token-exchange"],
  ["is an ID token with a nonce", { nonce: "n" }, "on-behalf-of"],
  ["is an ID token with a nonce", { nonce: "n" }, "token-exchange"],
  ["is an ID token with at_hash", { at_hash: "x" }, "on-behalf-of"],
  ["is an ID token of Keycloak's", { typ: "ID" }, "token-exchange"],
  ["stands for an application", { ...entra, idtyp: "app" }, "on-behalf-of"],
  ["is Entra's and has no scp", { ...entra, scp: undefined, roles: ["Files.Read"] }, "on-behalf-of"],
  ["is for another client", { ...entra, aud: otherClient }, "on-behalf-of"],
  ["is for another client's App ID URI", { ...entra, aud: `api://${otherClient}` }, "on-behalf-of"],
  ["is for Microsoft Graph", { ...entra, aud: "https://graph.microsoft.com" }, "on-behalf-of"],
]) {
  test(`an assertion that ${what} is rejected by ${grant} before anything is sent, unless the look is off`, async (t) => {
    const issuer = await localIssuer(t);
    const request = { assertion: unsignedToken(claims) };
    const error = await failureUnsent(issuer, exchangerFor(issuer, { grant, clientId }), { request, secrets: [request.assertion] });
    assert.deepEqual(outline(error), rejected);
    assert.equal(issuer.requests.length, 0, "not even the metadata is asked for");

    await exchangeAt(exchangerFor(issuer, { grant, clientId, inspectAssertion: false }), request);
    assert.equal(issuer.tokenRequests.length, 1);
  });
}

for (const [what, claims, grant] of [
  ["says nothing of itself", {}, "on-behalf-of"],
  ["is Entra's", { ...entra, aud: clientId }, "on-behalf-of"],
  ["is Entra's of v1", { iss: "https://sts.windows.net/66667777-bbbb-3333-cccc-4444dddd5555/", scp: "mcp.access", aud: `api://${clientId}` }, "on-behalf-of"],
  ["has an App ID URI as its audience", { ...entra, aud: "api://files" }, "on-behalf-of"],
  ["names this client among others", { aud: [otherClient, clientId] }, "on-behalf-of"],
  ["begins a few seconds from now, by a clock that is ahead", { nbf: now() + 30 }, "on-behalf-of"],
  ["is another provider's without scp", { iss: "https://login.example" }, "on-behalf-of"],
  ["is for another audience in a grant that has no rule for it", { aud: otherClient }, "token-exchange"],
]) {
  test(`an assertion that ${what} is presented by ${grant}`, async (t) => {
    const issuer = await localIssuer(t);
    await exchangeAt(exchangerFor(issuer, { grant, clientId }), { assertion: unsignedToken(claims) });
    assert.equal(issuer.tokenRequests.length, 1);
  });
}

test("what is no JWT is presented, for only its issuer can read it", async (t) => {
  for (const assertion of ["opaque", "a.b.c", "a.b.c.d.e", `e30.${Buffer.from("[]").toString("base64url")}.c2ln`]) {
    const issuer = await localIssuer(t);
    await exchangeAt(exchangerFor(issuer), { assertion });
    assert.equal(issuer.tokenRequests[0].form.get("subject_token"), assertion);
  }
});

test("an ID token is exchanged where the request calls it one", async (t) => {
  const issuer = await localIssuer(t);
  await exchangeAt(exchangerFor(issuer), { assertion: unsignedToken({ nonce: "n" }), assertionType: idTokenType });
  assert.equal(issuer.tokenRequests[0].form.get("subject_token_type"), idTokenType);
});

test("inspectAssertion is a boolean", () => {
  for (const inspectAssertion of ["false", 0, {}]) {
    const error = thrownBy(() => new TokenExchanger(optionsFor({ issuer: "https://login.example" }, { inspectAssertion })));
    assert.deepEqual(outline(error), misconfigured("inspectAssertion"));
  }
});
