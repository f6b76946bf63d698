// The package in a bundle, by esbuild, as wrangler and many others call it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../../", import.meta.url));
const wasmPath = join(root, "pkg/wasm/obo_edge_bg.wasm");
const app = `
  import { ExchangeError, TokenExchanger } from "obo-edge";
  try {
    new TokenExchanger({ tokenEndpoint: "http://login.example" });
  } catch (error) {
    console.log(error instanceof ExchangeError, error.field);
  }
`;

let folder;

before(async () => {
  // Beside the packages, for what stays outside of a bundle is found from there.
  folder = await mkdtemp(join(root, "node_modules/.bundlers-test-"));
});
after(() => rm(folder, { recursive: true }));

/** Bundles the app; what came out, what went in, and what stayed outside. */
async function bundle(name, options) {
  const { metafile, warnings } = await build({
    stdin: { contents: app, resolveDir: root },
    bundle: true,
    format: "esm",
    metafile: true,
    outdir: join(folder, name),
    entryNames: "app",
    outExtension: { ".js": ".mjs" },
    absWorkingDir: root,
    logLevel: "silent",
    ...options,
  });
  assert.deepEqual(warnings, []);
  const outputs = Object.entries(metafile.outputs);
  const [, entry] = outputs.find(([, { entryPoint }]) => entryPoint !== undefined);
  return {
    // What the bundler looked at and left out again weighs nothing.
    inputs: Object.values(metafile.outputs).flatMap(({ inputs }) => Object.keys(inputs).filter((path) => inputs[path].bytesInOutput > 0)),
    outputs: outputs.map(([path]) => join(root, path)),
    outside: entry.imports.filter(({ external }) => external).map(({ path }) => path).sort(),
    entry: join(folder, name, "app.mjs"),
  };
}

async function run(path) {
  const { stdout } = await promisify(execFile)(process.execPath, [path]);
  return stdout;
}

test("a bundle for Workers imports the wasm as a module, and nothing but cloudflare:workers besides", async () => {
  const { entry, inputs, outputs, outside } = await bundle("workerd", {
    conditions: ["workerd", "worker", "browser"],
    external: ["cloudflare:*"],
    loader: { ".wasm": "copy" },
  });
  assert.ok(inputs.includes("pkg/runtime/workerd.js"));
  assert.deepEqual(inputs.filter((path) => path.startsWith("pkg/runtime/")), ["pkg/runtime/workerd.js"]);
  assert.deepEqual(outside, ["cloudflare:workers"]);
  const copies = outputs.filter((path) => path.endsWith(".wasm"));
  assert.equal(copies.length, 1);
  assert.match(await readFile(entry, "utf8"), new RegExp(`import \\w+ from "\\./${basename(copies[0]).replaceAll(".", "\\.")}"`));
  assert.deepEqual(await readFile(copies[0]), await readFile(wasmPath));
});

test("a bundle of the exchanger leaves the gateway out, and of jose what verifies", async () => {
  const { inputs } = await bundle("small", { conditions: ["workerd"], external: ["cloudflare:*"], loader: { ".wasm": "copy" } });
  assert.deepEqual(inputs.filter((path) => /gateway|worker\.js$|pkg\/keys|jwt\/|jwks|jwe\/|decrypt/.test(path)), []);
});

test("a bundle for Node that leaves packages outside runs", async () => {
  const { entry, outside } = await bundle("external", { platform: "node", packages: "external" });
  assert.deepEqual(outside, ["obo-edge"]);
  assert.equal(await run(entry), "true tokenEndpoint\n");
});

test("a bundle for Node that takes the package in needs nothing but Node and the wasm file", async () => {
  const { inputs, outside } = await bundle("whole", { platform: "node" });
  assert.deepEqual(inputs.filter((path) => path.startsWith("pkg/runtime/")), ["pkg/runtime/node.js"]);
  assert.deepEqual(outside, ["node:fs"]);
});

test("a bundle for browsers and unknown runtimes fetches the wasm from beside it", async (context) => {
  const { inputs, outside } = await bundle("default", {});
  assert.deepEqual(inputs.filter((path) => path.startsWith("pkg/runtime/")), ["pkg/runtime/default.js"]);
  assert.deepEqual(outside, []);

  const fetched = [];
  context.mock.method(globalThis, "fetch", async (url) => {
    fetched.push(url.href);
    return new Response(await readFile(url));
  });
  const { module, waitUntil } = await import("../../pkg/runtime/default.js");
  assert.deepEqual(fetched, [pathToFileURL(wasmPath).href]);
  assert.ok(module instanceof WebAssembly.Module);
  assert.equal(waitUntil, undefined);
});

test("a bundle keeps nothing of the machine that it was made on", async () => {
  const { outputs } = await bundle("paths", { platform: "node", minify: true });
  for (const path of [...outputs, wasmPath]) {
    const text = (await readFile(path)).toString("latin1");
    for (const place of [root, tmpdir(), process.env.HOME, ".cargo/registry"]) {
      if (place && place.length > 3) assert.ok(!text.includes(place), `${path} names ${place}`);
    }
  }
});
