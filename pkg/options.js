// An exchanger's options, told apart: what the core reads, and the operator's own objects.
import { Client } from "./client.js";
import { misconfigured } from "./error.js";
import { hiddenMember, isPlain } from "./plain.js";
import { fromFields } from "./request.js";

/** The options that are objects of the host; all others go to the core. */
const HOST_OPTIONS = new Set(["store", "coordinator", "fetch", "onEvent"]);

const isMember = (name) => name !== "constructor";

/** The options: as JSON for the core, and the operator's own objects as the core's driver calls them. */
export function readOptions(options) {
  const parts = [];
  const own = new Map();
  /** The client at each authorization server, by the core's numbers. */
  const clients = [];
  const hidden = isPlain(options) && hiddenMember(options, isMember);
  if (hidden) throw misconfigured(hidden, "must be an enumerable member of the options themselves");
  for (const name of Object.keys(options ?? {})) {
    try {
      let value = options[name];
      if (name === "clientAuthentication") value = (clients[0] = new Client(value)).told;
      if (name === "resourceAuthorizationServer" && isPlain(value)) {
        const { clientAuthentication, ...server } = value;
        value = { ...server, clientAuthentication: (clients[1] = new Client(clientAuthentication)).told };
      }
      if (HOST_OPTIONS.has(name)) own.set(name, value ?? undefined);
      else {
        const json = JSON.stringify(value, plain);
        if (json !== undefined) parts.push(`${JSON.stringify(name)}:${json}`);
      }
    } catch {
      throw misconfigured(name, "must be made of plain values");
    }
  }
  const host = hostOf(own.get("store"), own.get("fetch"), own.get("onEvent"));
  Object.assign(host, coordinatorOf(own.get("coordinator"), options?.name));
  host.sign = (server, header, claims) => clients[server].sign(header, claims);
  host.clientAssertion = (server) => clients[server].obtain();
  return { json: `{${parts.join()}}`, host };
}

/** JSON drops or bends what it cannot carry; `true` is what no option takes, so that the core names the place. */
function plain(_name, value) {
  if (typeof value === "number") return Number.isFinite(value) ? value : true;
  if (typeof value === "string") return value.isWellFormed() ? value : true;
  if (isPlain(value)) return hiddenMember(value, isMember) === undefined ? value : true;
  return typeof value === "function" || typeof value === "symbol" || typeof value === "bigint" ? true : value;
}

const has = (object, method) => typeof object?.[method] === "function";

function hostOf(store, fetch, onEvent) {
  if (store !== undefined && !(has(store, "get") && has(store, "put") && has(store, "delete"))) {
    throw misconfigured("store", "must have the methods get, put and delete");
  }
  if (onEvent !== undefined && typeof onEvent !== "function") throw misconfigured("onEvent", "must be a function");
  if (fetch !== undefined && typeof fetch !== "function" && !has(fetch, "fetch")) {
    throw misconfigured("fetch", "must be a function, or a binding with a method fetch");
  }
  const send = fetch === undefined || typeof fetch === "function" ? fetch : (url, init) => fetch.fetch(url, init);
  return {
    store,
    onEvent,
    hasFetch: fetch !== undefined,
    // The global one is looked up at each call, and called as a plain function.
    fetch: (url, init) => (send ?? globalThis.fetch)(url, init),
  };
}

/** How the objects of a coordinator are asked; each call carries what is asked for, and no endpoint and no secret. */
function coordinatorOf(namespace, exchanger) {
  if (namespace === undefined) return { hasCoordinator: false };
  if (!(has(namespace, "idFromName") && has(namespace, "get"))) {
    throw misconfigured("coordinator", "must be a namespace of Durable Objects");
  }
  const object = (name) => namespace.get(namespace.idFromName(name));
  return {
    hasCoordinator: true,
    coordinate: (name, fields, fromCache, shared) =>
      object(name).exchange({ exchanger, request: fromFields(fields), fromCache, shared }),
    evictCoordinated: (name, fields, refused, shared) =>
      object(name).evict({ exchanger, request: fromFields(fields), refused, shared }),
  };
}
