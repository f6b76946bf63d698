/** Access tokens of users for the gateway, good ones and those that it has to refuse. */

import { createSecretKey, randomUUID } from "node:crypto";
import { SignJWT, base64url, exportSPKI, generateKeyPair } from "jose";

/** What a gateway's app registration is called in a token's `aud`. */
export const gatewayAudience = "api://gateway";

/**
 * @typedef {object} UserTokenOptions
 * @property {string} [subject] default "ada"
 * @property {string | string[]} [audience] default "api://gateway"
 * @property {string[] | null} [scopes] default ["mcp.access"]; null leaves `scp` out, as an id_token does
 * @property {number} [lifetimeSeconds] default 3600; negative for a token that has expired
 * @property {string} [clientId] the application the user signed in with (`azp`)
 * @property {object} [claims] replace or add claims, e.g. `{ idtyp: "app" }`; undefined removes one
 * @property {object} [header] replace or add header parameters, e.g. `{ typ: "at+jwt" }`. `alg: "none"` gives an
 *   unsecured token, `alg: "HS256"` one whose secret is the public key's PEM (key confusion)
 * @property {boolean} [foreignKey] sign with a key that is not in the key set, under the `kid` of one that is
 */

/**
 * @param {{ issuer: string, algorithm: string, kid: string, privateKey: CryptoKey, publicKey: CryptoKey }} issuerKey
 * @returns {(options?: UserTokenOptions) => Promise<string>}
 */
export function createUserTokenMint({ issuer, algorithm, kid, privateKey, publicKey }) {
  return async function mintUserToken({
    subject = "ada",
    audience = gatewayAudience,
    scopes = ["mcp.access"],
    lifetimeSeconds = 3600,
    clientId = "mcp-client",
    claims = {},
    header = {},
    foreignKey = false,
  } = {}) {
    const now = Math.floor(Date.now() / 1000);
    const expiry = now + lifetimeSeconds;
    const issuedAt = Math.min(now, expiry - 60);
    const payload = {
      iss: issuer,
      aud: audience,
      sub: subject,
      azp: clientId,
      scp: scopes?.join(" "),
      ver: "2.0",
      jti: randomUUID(),
      iat: issuedAt,
      nbf: issuedAt,
      exp: expiry,
      ...claims,
    };
    const protectedHeader = { alg: algorithm, typ: "JWT", kid, ...header };
    if (protectedHeader.alg === "none") {
      return `${[protectedHeader, payload].map((part) => base64url.encode(JSON.stringify(part))).join(".")}.`;
    }
    let key = privateKey;
    if (protectedHeader.alg.startsWith("HS")) key = createSecretKey(Buffer.from(await exportSPKI(publicKey)));
    else if (foreignKey) key = (await generateKeyPair(protectedHeader.alg)).privateKey;
    return new SignJWT(payload).setProtectedHeader(protectedHeader).sign(key);
  };
}
