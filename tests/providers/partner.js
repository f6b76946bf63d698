/**
 * An organisation whose assertions Keycloak trusts: a key set, a mint, and an endpoint that turns an ID token into an
 * assertion for another's authorization server (ID-JAG), which Keycloak takes and does not make.
 */

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { SignJWT, exportJWK, generateKeyPair, jwtVerify } from "jose";

const idJag = "urn:ietf:params:oauth:token-type:id-jag";
const algorithm = "ES256";
const kid = "partner";

/** The one client of its token endpoint. */
export const partnerClient = { clientId: "gateway-at-partner", clientSecret: "partner's secret" };

/** @param {{ clientIdAtAudience: string }} options whom the assertions for another's server are made for there */
export async function startPartner({ clientIdAtAudience }) {
  const { privateKey, publicKey } = await generateKeyPair(algorithm);
  const jwk = { ...(await exportJWK(publicKey)), kid, alg: algorithm, use: "sig" };
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const metadata = { issuer, token_endpoint: `${issuer}/token`, jwks_uri: `${issuer}/keys` };

  /**
   * @param {string} username
   * @param {{ lifetimeSeconds?: number, type?: string, claims: object }} options
   */
  function mint(username, { lifetimeSeconds = 120, type = "JWT", claims }) {
    const now = Math.floor(Date.now() / 1000);
    const expiry = now + lifetimeSeconds;
    const issuedAt = Math.min(now, expiry - 60);
    return new SignJWT({ iss: issuer, sub: subjectOf(username), jti: randomUUID(), iat: issuedAt, exp: expiry, ...claims })
      .setProtectedHeader({ alg: algorithm, typ: type, kid })
      .sign(privateKey);
  }

  /** The first leg of draft-ietf-oauth-identity-assertion-authz-grant, section 4.3. */
  async function makeIdJag(form) {
    const known = form.get("client_id") === partnerClient.clientId && form.get("client_secret") === partnerClient.clientSecret;
    if (!known) return [401, { error: "invalid_client" }];
    if (form.get("requested_token_type") !== idJag) return [400, { error: "invalid_request" }];
    const { payload } = await jwtVerify(form.get("subject_token"), publicKey, { issuer, audience: partnerClient.clientId });
    const scope = form.get("scope");
    const assertion = await mint(payload.name, {
      type: "oauth-id-jag+jwt",
      claims: { aud: form.get("audience"), client_id: clientIdAtAudience, resource: form.get("resource"), scope },
    });
    return [200, { access_token: assertion, issued_token_type: idJag, token_type: "N_A", expires_in: 120, scope }];
  }

  async function answer(request) {
    switch (request.url) {
      case "/keys":
        return [200, { keys: [jwk] }];
      case "/.well-known/openid-configuration":
        return [200, metadata];
      case "/token":
        return makeIdJag(new URLSearchParams(await text(request)));
      default:
        return [404, {}];
    }
  }

  server.on("request", async (request, response) => {
    const [status, body] = await answer(request).catch(() => [400, { error: "invalid_request" }]);
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  });

  return {
    issuer,
    jwksUri: metadata.jwks_uri,
    subjectOf,
    /** An assertion for an authorization server (RFC 7523, section 3). */
    mintAssertion: (username, audience, lifetimeSeconds) => mint(username, { lifetimeSeconds, claims: { aud: audience } }),
    mintIdToken: (username) => mint(username, { claims: { aud: partnerClient.clientId, name: username } }),
    async close() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

function subjectOf(username) {
  return `partner's ${username}`;
}
