// Node, Deno and Bun: the module is read from beside this file. Nothing ends before its promises do.
import { readFileSync } from "node:fs";

export const module = new WebAssembly.Module(readFileSync(new URL("../wasm/obo_edge_bg.wasm", import.meta.url)));
export const waitUntil = undefined;
