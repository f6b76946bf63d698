/** An identity provider and the authorization server of a resource, for the grant that asks one after the other. */

import { errorAnswer, tokenMembers } from "../servers/authorization-server.js";
import { exchangerFor, localIssuer, optionsFor } from "./local-issuer.js";
import { unsignedToken } from "./support.js";

export const idJag = "urn:ietf:params:oauth:token-type:id-jag";
export const resource = "https://files.example/mcp";
export const scope = "files.read";
/** The client at the resource's authorization server: another name and another secret than at the identity provider. */
export const resourceClient = { clientId: "gateway-at-files", clientSecret: "another:/+ &% secret" };

/** An ID token: it has a nonce and no scope, and is for the client at the identity provider. */
export function idToken(claims) {
  return unsignedToken({ iss: "https://login.example", aud: "gateway", nonce: "n", ...claims });
}

/** What the identity provider makes of a request: an ID-JAG that tells its user's token and never comes twice. */
export function newIdJag(form, { typ = "oauth-id-jag+jwt", claims } = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const lifetimeSeconds = 300;
  const exp = Math.floor(Date.now() / 1000) + lifetimeSeconds;
  const payload = { aud: form.get("audience"), resource: form.get("resource"), exp, made_for: form.get("subject_token").slice(-24), ...claims };
  return `${part({ alg: "ES256", typ })}.${part({ ...payload, jti: crypto.randomUUID() })}.c2lnbmF0dXJl`;
}

/** The identity provider's good response; without `expires_in`, as most leave it out here. */
export function idJagMembers(form) {
  return { access_token: newIdJag(form), issued_token_type: idJag, token_type: "N_A" };
}

/** The claim of an ID-JAG that tells which user's token it was made of. */
export function madeFor(jwt) {
  return JSON.parse(Buffer.from(jwt.split(".")[1], "base64url")).made_for;
}

/**
 * Both servers, which end with the test. Each of their answers may be replaced as `startAuthorizationServer` has it.
 *
 * @param {import("node:test").TestContext} t
 * @param {{ first?: object, second?: object }} [answers]
 */
export async function twoServers(t, { first, second } = {}) {
  const identityProvider = await localIssuer(t, {
    ...first,
    token: async (request, count) => (await first?.token?.(request, count)) ?? { body: idJagMembers(request.form) },
  });
  const resourceServer = await localIssuer(t, {
    ...second,
    token: async (request, count) => (await second?.token?.(request, count)) ?? truth(request.form),
  });
  return { identityProvider, resourceServer };
}

/** The token names the user's token that the ID-JAG was made of, so that a mix-up shows. */
function truth(form) {
  if (form.get("grant_type") !== "urn:ietf:params:oauth:grant-type:jwt-bearer") return errorAnswer("unsupported_grant_type");
  return { body: { ...tokenMembers(form), access_token: `token-for-${madeFor(form.get("assertion"))}`, issued_token_type: undefined } };
}

export function resourceAuthorizationServer(resourceServer, overrides) {
  const { clientId, clientSecret } = resourceClient;
  return {
    issuer: resourceServer.issuer,
    clientId,
    clientAuthentication: { method: "client_secret_basic", clientSecret },
    ...overrides,
  };
}

export function twoLegOptions({ identityProvider, resourceServer }, overrides) {
  return optionsFor(identityProvider, {
    grant: "identity-assertion",
    resourceAuthorizationServer: resourceAuthorizationServer(resourceServer),
    ...overrides,
  });
}

export function twoLegExchanger(servers, overrides) {
  return exchangerFor(servers.identityProvider, twoLegOptions(servers, overrides));
}

/** How many token requests each server has seen. */
export function legs({ identityProvider, resourceServer }) {
  return [identityProvider.tokenRequests.length, resourceServer.tokenRequests.length];
}
