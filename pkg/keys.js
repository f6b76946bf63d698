// The issuers' key sets: fetched, kept as values (a request's promises die with it), and bounded in age.

/** How long a key set is used without looking again, in milliseconds. */
const MAX_AGE_MS = 10 * 60 * 1000;
/** How long it is used while no newer one is to be had, in milliseconds: a key that was withdrawn must not count for good. */
const MAX_STALE_MS = 24 * 60 * 60 * 1000;
/** How often an issuer is asked at most, in milliseconds. */
const COOLDOWN_MS = 30 * 1000;
/** How long one request may take, in milliseconds. */
const TIMEOUT_MS = 5000;
/** The longest document that is read, in bytes. */
const MAX_BYTES = 1024 * 1024;

/** The keys cannot be had at the moment; nothing is said about the token. */
export class KeysUnavailable extends Error {}

/** RFC 7517 section 4.1: each key names its type. */
function isKey(key) {
  return typeof key === "object" && key !== null && typeof key.kty === "string";
}

/** Whether `instant` is no further from now than so many milliseconds, in either direction: clocks are set back. */
function isWithin(milliseconds, instant) {
  return Math.abs(Date.now() - instant) < milliseconds;
}

export class IssuerKeys {
  #fetch;
  #core;
  #known = new Map();

  constructor(fetch, core) {
    this.#fetch = fetch;
    this.#core = core;
  }

  /** The key set of the server's issuer. */
  async get(server) {
    const known = this.#entry(server);
    if (known.set !== undefined && isWithin(MAX_AGE_MS, known.fetchedAt)) return known.set;
    if (!isWithin(COOLDOWN_MS, known.triedAt)) await this.#renew(server, known).catch(() => undefined);
    // Old keys are better than none while the issuer is away: signatures of theirs still count.
    if (known.set !== undefined && isWithin(MAX_STALE_MS, known.fetchedAt)) return known.set;
    throw new KeysUnavailable();
  }

  /** A newer set than `old`, or `undefined` where it is too early to ask or there is none. */
  async renew(server, old) {
    const known = this.#entry(server);
    if (known.set !== old) return known.set;
    if (isWithin(COOLDOWN_MS, known.triedAt)) return undefined;
    // At once, or a burst of tokens with an unknown key would be a burst of requests.
    known.triedAt = Date.now();
    return this.#renew(server, known).catch(() => undefined);
  }

  #entry({ issuer, jwksUri }) {
    const name = jwksUri ?? issuer;
    let known = this.#known.get(name);
    if (known === undefined) this.#known.set(name, (known = { set: undefined, fetchedAt: 0, triedAt: 0 }));
    return known;
  }

  async #renew({ issuer, jwksUri }, known) {
    try {
      const address = jwksUri ?? (await this.#discover(issuer));
      const set = JSON.parse(await this.#read(address));
      // A list with anything but keys in it is not what the issuer meant to publish.
      if (!Array.isArray(set?.keys) || set.keys.length === 0 || !set.keys.every(isKey)) throw new KeysUnavailable();
      known.set = set;
      known.fetchedAt = Date.now();
      return set;
    } catch {
      throw new KeysUnavailable();
    } finally {
      known.triedAt = Date.now();
    }
  }

  async #discover(issuer) {
    for (const url of this.#core("issuer_metadata_urls", issuer)) {
      const document = await this.#read(url).catch(() => undefined);
      const address = document && this.#core("jwks_uri", issuer, document);
      if (address) return address;
    }
    throw new KeysUnavailable();
  }

  /** The text of a JSON document; redirects are not followed. */
  async #read(url) {
    const response = await this.#fetch(url, {
      headers: { accept: "application/json" },
      redirect: "manual",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.status !== 200) throw new KeysUnavailable();
    const decoder = new TextDecoder();
    let text = "";
    let bytes = 0;
    for await (const chunk of response.body) {
      bytes += chunk.byteLength;
      if (bytes > MAX_BYTES) throw new KeysUnavailable();
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  }
}
