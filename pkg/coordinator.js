// The coordinator: a Durable Object for each key, so that an exchange is made once in the world.
import { DurableObject } from "cloudflare:workers";
import { ExchangeError } from "./error.js";
import { TokenExchanger, internal } from "./host.js";

/**
 * A class of Durable Objects that exchange for every isolate that asks. `optionsOf(env, name)` are the options of the
 * exchanger of that `name`, secrets included: a call carries none of them. `verifySubject(assertion, env, name)` gives
 * the subject of an assertion that it has verified; without it calls with a `subject` are refused.
 */
export function createCoordinator(optionsOf, { verifySubject } = {}) {
  return class Coordinator extends DurableObject {
    #exchanger;

    /** The token for what the call asks, sealed, or why there is none, as text. Throws where the call is not for this object. */
    async exchange(call) {
      const [exchanger, request] = await this.#take(call);
      try {
        return await internal.sealed(exchanger, { ...request, fromCache: call.fromCache }, this.ctx);
      } catch (error) {
        if (!(error instanceof ExchangeError)) throw error;
        return JSON.stringify({ ...error, message: error.message });
      }
    }

    /** Forgets the token for what the call asks. Throws where the call is not for this object. */
    async evict(call) {
      const [exchanger, request] = await this.#take(call);
      await internal.evict(exchanger, request, call.refused === true);
    }

    /** Nothing is kept past its end. */
    async alarm() {
      await this.ctx.storage.deleteAll();
    }

    /** The exchanger and the request of a call, if it is for this object: its name is computed again from the request. */
    async #take({ exchanger: name, request, shared }) {
      const subject = shared ? await this.#subject(request.assertion, name) : undefined;
      const asked = { ...request, subject };
      const exchanger = this.#exchangerOf(name);
      if (!internal.isNamed(exchanger, asked, this.ctx.id.name)) throw new Error("obo-edge: the call is for another object");
      return [exchanger, asked];
    }

    async #subject(assertion, name) {
      const subject = await verifySubject?.(assertion, this.env, name);
      // Whoever calls may say whose token it wants; whose it is, is for a verification to say.
      if (!subject) throw new Error("obo-edge: this coordinator verifies no subjects");
      return subject;
    }

    /** One object serves one key, hence one exchanger. */
    #exchangerOf(name) {
      if (!this.#exchanger || this.#exchanger.name !== name) {
        const options = { ...optionsOf(this.env, name), store: storeOf(this.ctx.storage), coordinator: undefined };
        this.#exchanger = { name, of: new TokenExchanger(options) };
      }
      return this.#exchanger.of;
    }
  };
}

/** The object's own storage as a store of the one sealed entry. */
function storeOf(storage) {
  // A token need not wait until it is written: it is there to be found, not to be relied on.
  const options = { allowUnconfirmed: true };
  return {
    get: (name) => storage.get(name, options),
    put: (name, value, { expirationTtl }) =>
      Promise.all([storage.put(name, value, options), storage.setAlarm(Date.now() + expirationTtl * 1000, options)]),
    delete: () => Promise.all([storage.deleteAll(), storage.deleteAlarm()]),
  };
}
