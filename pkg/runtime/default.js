// Browsers and bundlers that understand `new URL(…, import.meta.url)`.
const response = await fetch(new URL("../wasm/obo_edge_bg.wasm", import.meta.url));

export const module = await WebAssembly.compile(await response.arrayBuffer());
export const waitUntil = undefined;
