/** Makes each exchange once in the world, by Durable Objects. See README.md. */
import type { ExchangerOptions, VerifiedSubject } from "./index.js";

/**
 * A class of Durable Objects, to be exported by the Worker and bound as `ExchangerOptions.coordinator`.
 * @param optionsOf the options of the exchanger of this name, the same as in the isolates: `storeSecrets`, `tokenEndpoint`
 * or `issuer`, `clientId` and `grant` decide which object serves what. `store` and `coordinator` have no part in it.
 */
export function createCoordinator<Env = unknown>(
  optionsOf: (env: Env, name: string | undefined) => ExchangerOptions,
  verification?: {
    /**
     * The subject of an assertion that it has verified. Without it a call with a `subject` is refused, and its isolate
     * exchanges by itself.
     */
    verifySubject?: (assertion: string, env: Env, name: string | undefined) => Promise<VerifiedSubject> | VerifiedSubject;
  },
): CoordinatorClass<Env>;

/** What the runtime makes objects of. Its methods are for the package's own isolates. */
export interface CoordinatorClass<Env> {
  // The state is Cloudflare's `DurableObjectState`.
  new (state: any, env: Env): {
    exchange(call: unknown): Promise<string>;
    evict(call: unknown): Promise<void>;
    alarm(): Promise<void>;
  };
}
