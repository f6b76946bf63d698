/**
 * The on-behalf-of grant of Microsoft Entra ID, as a custom grant of oidc-provider.
 * https://learn.microsoft.com/entra/identity-platform/v2-oauth2-on-behalf-of-flow
 */

import { errors as joseErrors, jwtVerify } from "jose";
import { EntraError } from "./entra-error.js";
import { gatewayAudience } from "./user-token.js";

/** RFC 7523, section 2.1. */
export const grantType = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/** Parameters that reach the grant; `resource` among them because Entra refuses it rather than ignore it. */
export const grantParameters = ["requested_token_use", "assertion", "scope", "claims", "resource"];

/**
 * Users whom the grant refuses. `mfa-required` and `mfa-required+anything` are the same kind of user, so that each
 * test can have one of its own.
 */
const refusals = {
  "consent-required": () => 65001,
  // A token from a sign-in with a second factor satisfies the policy.
  "mfa-required": ({ amr = [] }) => (amr.includes("mfa") ? undefined : 50076),
  blocked: () => 53003,
  throttled: () => 50196,
};

/**
 * @param {object} options
 * @param {import("oidc-provider").Provider} options.provider
 * @param {Record<string, string[]>} options.resources identifier URI -> the scopes it offers
 * @param {(identifier: string) => object} options.resourceServerInfo
 * @param {CryptoKey} options.publicKey verifies assertions
 * @param {string} options.algorithm
 * @returns {(context: import("koa").Context) => Promise<void>} handler for `provider.registerGrantType`
 */
export function onBehalfOfGrant({ provider, resources, resourceServerInfo, publicKey, algorithm }) {
  return async function handleOnBehalfOf(context) {
    const { client, params } = context.oidc;
    for (const name of ["requested_token_use", "assertion", "scope"]) {
      if (!params[name]) throw new EntraError(900144, `Parameter: '${name}'.`);
    }
    if (params.requested_token_use !== "on_behalf_of") throw new EntraError(90023, "Unknown 'requested_token_use'.");
    if (params.resource) throw new EntraError(901002);

    const user = await verifyAssertion(params.assertion, {
      key: publicKey,
      issuer: provider.issuer,
      audience: [gatewayAudience, client.clientId],
      algorithms: [algorithm],
    });
    const { resource, scopes } = resolveScope(params.scope, resources);
    const refusal = refusals[user.sub.split("+", 1)[0]]?.(user);
    if (refusal) throw new EntraError(refusal);

    const token = new provider.AccessToken({
      client,
      accountId: user.sub,
      scope: scopes.join(" "),
      resourceServer: new provider.ResourceServer(resource, resourceServerInfo(resource)),
    });
    const accessToken = await token.save();
    context.body = {
      token_type: "Bearer",
      scope: scopes.map((scope) => `${resource}/${scope}`).join(" "),
      expires_in: token.expiration,
      ext_expires_in: token.expiration,
      access_token: accessToken,
    };
  };
}

async function verifyAssertion(assertion, { key, ...expected }) {
  const { payload } = await jwtVerify(assertion, key, expected).catch((error) => {
    throw assertionError(error);
  });
  if (payload.idtyp === "app") throw new EntraError(7000114);
  if (!payload.scp) throw new EntraError(240002);
  return payload;
}

function assertionError(error) {
  if (error instanceof joseErrors.JWTExpired) return new EntraError(500133);
  if (error instanceof joseErrors.JWTClaimValidationFailed) {
    if (error.claim === "aud") return new EntraError(500131);
    return new EntraError(error.claim === "nbf" ? 500133 : 50013, `Claim: '${error.claim}'.`);
  }
  if (error instanceof joseErrors.JWSSignatureVerificationFailed || error instanceof joseErrors.JOSEAlgNotAllowed) {
    return new EntraError(50013);
  }
  if (error instanceof joseErrors.JOSEError) return new EntraError(50027);
  return error;
}

/** "api://mcp-files/tools.call" -> the resource before the last slash, the scope after it. */
function resolveScope(scope, resources) {
  const requested = scope.split(" ").map((value) => {
    const slash = value.lastIndexOf("/");
    return { resource: value.slice(0, slash), name: value.slice(slash + 1) };
  });
  const [{ resource }] = requested;
  if (requested.some((other) => other.resource !== resource)) {
    throw new EntraError(70011, "Scopes of more than one resource.");
  }
  const offered = resources[resource];
  if (!offered) {
    throw resource.includes("://") ? new EntraError(500011) : new EntraError(70011);
  }
  const names = requested.map(({ name }) => name);
  if (names.includes(".default")) return { resource, scopes: offered };
  if (!names.every((name) => offered.includes(name))) throw new EntraError(70011);
  return { resource, scopes: [...new Set(names)] };
}
