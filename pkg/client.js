// The client's own key and callback, which stay in JavaScript. What is signed, and when, is the core's to say.
import { CompactSign, importJWK, importPKCS8 } from "jose";
import { isPlain } from "./plain.js";

const encoder = new TextEncoder();
const PKCS8 = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/;

/** What a client has at one authorization server to prove itself by. */
export class Client {
  /** The options of its authentication, with what JSON cannot carry told as `true`, and as `false` what is wrong there. */
  told;
  #key;
  #clientAssertion;
  #imported;

  constructor(clientAuthentication) {
    this.told = clientAuthentication;
    if (!isPlain(clientAuthentication)) return;
    const { key, clientAssertion } = (this.told = { ...clientAuthentication });
    if (clientAssertion !== undefined && clientAssertion !== null) {
      this.#clientAssertion = clientAssertion;
      this.told.clientAssertion = typeof clientAssertion === "function";
    }
    // A copy, for what the operator does to the object later.
    this.#key = isPlain(key) && !isCryptoKey(key) ? { ...key } : key;
    if (isCryptoKey(key)) this.told.key = true;
    else if (isPlain(key)) this.told.key = this.#key;
    else if (typeof key !== "string" && key !== undefined && key !== null) this.told.key = false;
  }

  /** A JWT of this header and these claims. Throws where the key is none for it. */
  async sign(header, claims) {
    const protectedHeader = JSON.parse(header);
    // Kept as a value and not as a promise, which would belong to the request that made it.
    this.#imported ??= await imported(this.#key, protectedHeader.alg);
    return new CompactSign(encoder.encode(claims)).setProtectedHeader(protectedHeader).sign(this.#imported);
  }

  /** What the operator's callback gives. */
  obtain() {
    const obtain = this.#clientAssertion;
    return obtain();
  }
}

function imported(key, algorithm) {
  if (typeof key === "string") return importPKCS8(PKCS8.exec(key)?.[0] ?? "", algorithm);
  return isCryptoKey(key) ? key : importJWK(key, algorithm);
}

function isCryptoKey(key) {
  return key?.[Symbol.toStringTag] === "CryptoKey";
}
