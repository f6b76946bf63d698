// The Worker that deploys as it is: the gateway, configured by bindings.
import { createCoordinator } from "./coordinator.js";
import { createGateway } from "./gateway.js";

let gateway;

/**
 * Bindings: OBO_CONFIG (the configuration, JSON), OBO_CLIENT_SECRET or OBO_CLIENT_KEY (a secret: the client's secret,
 * or its private key as PEM), OBO_CLIENT_CERTIFICATE (an mTLS certificate, for tls_client_auth), OBO_STORE (Workers
 * KV, optional), OBO_COORDINATOR (Durable Objects of the class Coordinator, optional), OBO_COORDINATOR_JURISDICTION
 * (where they are to stay, for example "eu"), OBO_STORE_SECRETS (a secret, required with one of them; several are
 * separated by commas, newest first), OBO_LOG ("events" logs each exchange event as a line of JSON).
 */
export default {
  async fetch(request, env, ctx) {
    try {
      gateway ??= createGateway(configOf(env));
      return await gateway.fetch(request, ctx);
    } catch (error) {
      // A configuration error names the option and never its value; of any other nothing is known.
      console.error(`obo-edge: ${gateway ? "failed" : `OBO_CONFIG: ${error.message}`}`);
      return Response.json({ error: "server_error" }, { status: 500, headers: { "cache-control": "no-store" } });
    }
  },
};

/** Makes each exchange once in the world. It runs in this Worker's own isolates, with its bindings. */
export const Coordinator = createCoordinator((env) => configOf(env).exchanger);

function configOf(env) {
  const config = typeof env.OBO_CONFIG === "string" ? parse(env.OBO_CONFIG) : env.OBO_CONFIG;
  if (typeof config !== "object" || config === null) throw new Error("must be a JSON object");
  const exchanger = { ...config.exchanger };
  const secrets = { clientSecret: env.OBO_CLIENT_SECRET, key: env.OBO_CLIENT_KEY };
  for (const [name, value] of Object.entries(secrets)) {
    if (value !== undefined) exchanger.clientAuthentication = { ...exchanger.clientAuthentication, [name]: value };
  }
  if (env.OBO_CLIENT_CERTIFICATE) exchanger.fetch = env.OBO_CLIENT_CERTIFICATE;
  if (env.OBO_STORE) exchanger.store = env.OBO_STORE;
  if (env.OBO_COORDINATOR) {
    const jurisdiction = env.OBO_COORDINATOR_JURISDICTION;
    exchanger.coordinator = jurisdiction ? env.OBO_COORDINATOR.jurisdiction(jurisdiction) : env.OBO_COORDINATOR;
  }
  if (env.OBO_STORE_SECRETS) exchanger.storeSecrets = env.OBO_STORE_SECRETS.split(",");
  if (env.OBO_LOG === "events") exchanger.onEvent = (event) => console.log(JSON.stringify({ event }));
  return { ...config, exchanger };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("must be JSON");
  }
}
