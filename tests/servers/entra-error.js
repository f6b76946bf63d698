/**
 * Error responses as the token endpoint of Microsoft Entra ID gives them.
 * https://learn.microsoft.com/entra/identity-platform/reference-error-codes
 */

import { randomUUID } from "node:crypto";
import { errors } from "oidc-provider";

/** Code -> HTTP status, `error`, text, members that come with it. */
const catalogue = {
  50013: [400, "invalid_grant", "Assertion failed signature validation."],
  50027: [400, "invalid_request", "JWT token is invalid or malformed."],
  50076: [400, "interaction_required", "Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access the resource.", {
    suberror: "basic_action",
    claims: JSON.stringify({ access_token: { capolids: { essential: true, values: ["5f4a1c1e-9d0b-4b1f-8a53-0c5be0d3a7e2"] } } }),
  }],
  50196: [400, "invalid_grant", "The server terminated an operation because it encountered a client request loop."],
  53003: [400, "access_denied", "Access has been blocked by Conditional Access policies."],
  65001: [400, "invalid_grant", "The user or administrator has not consented to use the application.", { suberror: "consent_required" }],
  70003: [400, "unsupported_grant_type", "The app requested an unsupported grant type."],
  70011: [400, "invalid_scope", "The provided value for the input parameter 'scope' isn't valid."],
  90023: [400, "invalid_request", "The request is not valid."],
  240002: [400, "invalid_request", "Input id_token cannot be used as 'urn:ietf:params:oauth:grant-type:jwt-bearer' grant."],
  500011: [400, "invalid_resource", "The resource principal was not found in the tenant."],
  500131: [400, "invalid_grant", "Assertion audience does not match the Client app presenting the assertion."],
  500133: [400, "invalid_grant", "Assertion is not within its valid time range."],
  700016: [400, "unauthorized_client", "Application was not found in the directory."],
  900144: [400, "invalid_request", "The request body is missing a required parameter."],
  901002: [400, "invalid_request", "The 'resource' request parameter is not supported."],
  7000114: [400, "invalid_grant", "Application is not allowed to make application on-behalf-of calls."],
  7000215: [401, "invalid_client", "Invalid client secret provided."],
  7000218: [401, "invalid_client", "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."],
};

/** Thrown by the on-behalf-of grant; the identity provider answers it as Entra does. */
export class EntraError extends errors.OIDCProviderError {
  /**
   * @param {keyof typeof catalogue} code the number after "AADSTS"
   * @param {string} [detail] what was wrong, in addition to the code's text
   */
  constructor(code, detail) {
    const [status, error] = catalogue[code];
    super(status, error, detail);
    this.code = code;
  }
}

/**
 * Status and JSON body for a code.
 *
 * @param {keyof typeof catalogue} code
 * @param {{ detail?: string, correlationId?: string }} [options]
 */
export function entraError(code, { detail, correlationId = randomUUID() } = {}) {
  const [status, error, text, members] = catalogue[code];
  const traceId = randomUUID();
  const timestamp = `${new Date().toISOString().slice(0, 19).replace("T", " ")}Z`;
  const description = [`AADSTS${code}: ${text}`, detail].filter(Boolean).join(" ");
  return {
    status,
    body: {
      error,
      error_description: `${description} Trace ID: ${traceId} Correlation ID: ${correlationId} Timestamp: ${timestamp}`,
      error_codes: [Number(code)],
      timestamp,
      trace_id: traceId,
      correlation_id: correlationId,
      error_uri: `https://login.microsoftonline.com/error?code=${code}`,
      ...members,
    },
  };
}

/**
 * The Entra code for an error that oidc-provider itself raised before the grant was reached.
 *
 * @param {Error & { error?: string, error_detail?: string }} error
 */
export function entraCode({ error, error_detail: detail }) {
  if (error === "invalid_client") {
    if (detail === "client not found") return 700016;
    return detail === "invalid secret provided" ? 7000215 : 7000218;
  }
  if (error === "unsupported_grant_type") return 70003;
  if (error === "invalid_scope") return 70011;
  return 900144;
}
