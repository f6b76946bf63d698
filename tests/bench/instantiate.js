// Run in a fresh process: prints how long it takes until the package can be used, in milliseconds.
import { readFileSync } from "node:fs";

const path = new URL("../../pkg/wasm/obo_edge_bg.wasm", import.meta.url);
const bytes = readFileSync(path);
const glue = await import("../../pkg/wasm/obo_edge.js");

const start = performance.now();
const module = new WebAssembly.Module(bytes);
const compiled = performance.now();
glue.initSync({ module });
const instantiated = performance.now();
const { TokenExchanger } = await import("obo-edge");
const imported = performance.now();
new TokenExchanger({
  tokenEndpoint: "https://login.example/token",
  clientId: "gateway",
  clientAuthentication: { method: "client_secret_post", clientSecret: "secret" },
});
const made = performance.now();

console.log(JSON.stringify({ compile: compiled - start, instantiate: instantiated - compiled, firstExchanger: made - imported }));
