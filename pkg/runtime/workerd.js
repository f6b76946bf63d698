// Workers: the module is compiled by the platform; `waitUntil` keeps a request alive without its ctx.
import module from "../wasm/obo_edge_bg.wasm";
import { waitUntil } from "cloudflare:workers";

export { module, waitUntil };
