// A Worker with a coordinator, as an operator writes it; it compiles with the types of Workers.
import { TokenExchanger, type ExchangerOptions } from "obo-edge";
import { createCoordinator } from "obo-edge/coordinator";

interface Env {
  OBO_STORE: KVNamespace;
  OBO_STORE_SECRETS: string;
  OBO_COORDINATOR: DurableObjectNamespace<InstanceType<typeof Coordinator> & Rpc.DurableObjectBranded>;
  CLIENT_SECRET: string;
}

const optionsOf = (env: Env, name?: string): ExchangerOptions => ({
  tokenEndpoint: "https://login.example/token",
  clientId: name ?? "gateway",
  clientAuthentication: { method: "client_secret_post", clientSecret: env.CLIENT_SECRET },
  storeSecrets: env.OBO_STORE_SECRETS,
});

export class Coordinator extends createCoordinator(optionsOf) {}

export const Verifying = createCoordinator<Env>(optionsOf, {
  verifySubject: async (assertion) => ({ issuer: "https://issuer.example", id: assertion }),
});

export function exchangerOf(env: Env): TokenExchanger {
  const coordinator = env.OBO_COORDINATOR.jurisdiction("eu");
  return new TokenExchanger({ ...optionsOf(env), name: "files", store: env.OBO_STORE, coordinator });
}

export const plain = (env: { OBO_COORDINATOR: DurableObjectNamespace }): ExchangerOptions["coordinator"] => env.OBO_COORDINATOR;
