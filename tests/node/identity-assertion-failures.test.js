// The grant of two token requests where one of the two servers refuses, breaks or cannot be found.
import assert from "node:assert/strict";
import { test } from "node:test";
import { errorAnswer } from "../servers/authorization-server.js";
import { invalidResponse, misconfigured, outline, unavailable } from "./local-issuer.js";
import { assertNothingShows, clientSecret, failureOf } from "./support.js";
import { idJagMembers, idToken, legs, resource, resourceAuthorizationServer, resourceClient, scope, twoLegExchanger, twoServers } from "./two-servers.js";

const request = (changes) => ({ assertion: idToken(), scopes: scope, resource, ...changes });
const rejected = { reason: "assertion_rejected", field: undefined, retryable: false };

for (const [what, answer, expected, requests] of [
  ["refuses the ID token", errorAnswer("invalid_grant"), rejected, 1],
  ["calls the ID token an invalid request", errorAnswer("invalid_request"), rejected, 1],
  ["refuses the client", errorAnswer("invalid_client", {}, 401), misconfigured(undefined), 1],
  ["knows no such resource", errorAnswer("invalid_target"), misconfigured(undefined), 1],
  ["does not allow the grant", errorAnswer("unauthorized_client"), misconfigured(undefined), 1],
  ["redirects", { status: 307, headers: { location: "/elsewhere" } }, invalidResponse("tokenEndpoint"), 1],
  ["is away", "reset", unavailable(undefined), 2],
  ["is overloaded", 503, unavailable(undefined), 2],
]) {
  test(`an identity provider that ${what} ends the exchange there`, async (t) => {
    const servers = await twoServers(t, { first: { token: () => answer } });
    const error = await failureOf(twoLegExchanger(servers).exchange(request()));
    assert.deepEqual(outline(error), expected);
    assert.deepEqual(legs(servers), [requests, 0]);
  });
}

for (const [where, field, answersOf, expectedLegs] of [
  ["the identity provider", "", (answers) => ({ first: answers }), [0, 0]],
  ["the resource's server", "resourceAuthorizationServer.", (answers) => ({ second: answers }), [1, 0]],
]) {
  for (const [what, metadata, expected] of [
    ["is nowhere", () => 404, misconfigured(`${field}issuer`)],
    ["names another issuer", (document) => ({ body: { ...document, issuer: "https://evil.example" } }), misconfigured(`${field}issuer`)],
    ["has a token endpoint of plain http", (document) => ({ body: { ...document, token_endpoint: "http://login.example" } }), invalidResponse(`${field}issuer`)],
    ["is cut off by the network", () => "reset", unavailable(`${field}issuer`)],
    ["does not list the method", (document) => ({ body: { ...document, token_endpoint_auth_methods_supported: ["none"] } }), misconfigured(`${field}clientAuthentication.method`)],
  ]) {
    test(`metadata of ${where} that ${what} is named by its place, and no token request goes there`, async (t) => {
      const servers = await twoServers(t, answersOf({ metadata }));
      const error = await failureOf(twoLegExchanger(servers).exchange(request()));
      assert.deepEqual(outline(error), expected);
      assert.deepEqual(legs(servers), expectedLegs);
    });
  }
}

test("a callback at the resource's server that throws is named by its place", async (t) => {
  const servers = await twoServers(t);
  const clientAssertion = () => {
    throw new Error("hunter2");
  };
  const second = resourceAuthorizationServer(servers.resourceServer, { clientAuthentication: { method: "client_assertion", clientAssertion } });
  const error = await failureOf(twoLegExchanger(servers, { resourceAuthorizationServer: second }).exchange(request()));
  assert.deepEqual(outline(error), unavailable("resourceAuthorizationServer.clientAuthentication.clientAssertion"));
  assert.deepEqual(legs(servers), [1, 0]);
  assertNothingShows([error], ["hunter2"]);
});

test("a server that hands the ID token back has made nothing of it", async (t) => {
  const asked = request();
  const handedBack = { body: { access_token: asked.assertion, token_type: "Bearer" } };
  for (const answers of [
    { first: { token: ({ form }) => ({ body: { ...idJagMembers(form), access_token: asked.assertion } }) } },
    { second: { token: () => handedBack } },
  ]) {
    const servers = await twoServers(t, answers);
    const error = await failureOf(twoLegExchanger(servers).exchange(asked));
    assert.deepEqual([error.reason, error.field], ["invalid_response", "access_token"]);
    assert.deepEqual(legs(servers), answers.first ? [1, 0] : [1, 1]);
  }
});

test("neither ID token nor ID-JAG shows in an error or an event, though the servers quote them", async (t) => {
  const quoting = ({ form }) => errorAnswer("invalid_client", { error_description: form.get("assertion"), suberror: form.get("assertion") }, 401);
  const servers = await twoServers(t, { second: { token: quoting } });
  const events = [];
  const asked = request();
  const error = await failureOf(twoLegExchanger(servers, { onEvent: (event) => events.push(event) }).exchange(asked));
  assert.equal(error.error, "invalid_client");
  const [{ form }] = servers.resourceServer.tokenRequests;
  assertNothingShows([error, ...events], [asked.assertion, form.get("assertion"), clientSecret, resourceClient.clientSecret]);
});
