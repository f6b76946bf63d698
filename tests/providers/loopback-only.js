/** Preloaded into a program of others whose servers would listen on every interface: they listen on 127.0.0.1. */

import dns from "node:dns";
import { Server } from "node:net";

const loopback = "127.0.0.1";
const { listen } = Server.prototype;
const { lookup } = dns;

Server.prototype.listen = function (port, ...rest) {
  return typeof port === "number" && typeof rest[0] !== "string" ? listen.call(this, port, loopback, ...rest) : listen.call(this, port, ...rest);
};

// At once: the program reads the port right after `listen`, as it may where no name has to be looked up.
dns.lookup = (host, ...rest) => {
  if (host !== loopback) return lookup(host, ...rest);
  const answer = rest.at(-1);
  return rest[0].all ? answer(null, [{ address: loopback, family: 4 }]) : answer(null, loopback, 4);
};
