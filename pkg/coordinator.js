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
    /** By their names: those of one client at one server share their keys, and so their objects. */
    #exchangers = new Map();

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
      const [, request] = await this.#take(call);
      const holders = [...this.#exchangers.values()].filter((exchanger) => this.#serves(exchanger, request));
      await Promise.all(holders.map((exchanger) => internal.evict(exchanger, request, call.refused === true)));
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
      if (!this.#serves(exchanger, asked)) throw new Error("obo-edge: the call is for another object");
      return [exchanger, asked];
    }

    #serves(exchanger, request) {
      const { name } = this.ctx.id;
      // An object that was made without a name is for no call.
      return typeof name === "string" && internal.isNamed(exchanger, request, name);
    }

    async #subject(assertion, name) {
      const subject = await verifySubject?.(assertion, this.env, name);
      // Whoever calls may say whose token it wants; whose it is, is for a verification to say.
      if (!subject) throw new Error("obo-edge: this coordinator verifies no subjects");
      return subject;
    }

    #exchangerOf(name) {
      let exchanger = this.#exchangers.get(name);
      if (!exchanger) {
        const options = { ...optionsOf(this.env, name), store: storeOf(this.ctx.storage), coordinator: undefined };
        this.#exchangers.set(name, (exchanger = new TokenExchanger(options)));
      }
      return exchanger;
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
