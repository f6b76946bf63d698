/** The deployable Worker of the package, bundled and run in real workerd by Miniflare. Needs Node 22.12 or later. */

import { once } from "node:events";
import { createServer } from "node:net";
import { relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const workerEntry = fileURLToPath(new URL("../../pkg/worker.js", import.meta.url));

/**
 * @param {object} options
 * @param {object} options.config the Worker's `OBO_CONFIG`; `publicOrigin` is filled in where it is missing
 * @param {Record<string, string>} [options.secrets] Workers secrets: `OBO_CLIENT_SECRET`, `OBO_STORE_SECRETS`
 * @param {Record<string, string>} [options.variables] Workers variables, e.g. `{ OBO_LOG: "events" }`
 * @param {string} [options.miniflarePackage] name of the Miniflare package to run it with, version 4 or 5
 * @param {string} [options.workerdPath] another workerd binary than that Miniflare's own
 * @param {number} [options.port] default: any free port
 * @param {string} [options.entry] another Worker than pkg/worker.js
 * @param {boolean} [options.coordinator] whether it has the Durable Objects of its class Coordinator; default: not
 * @param {(line: string) => void} [options.onLog] called for each line the Worker logs
 */
export async function startGateway({
  config,
  secrets = {},
  variables = {},
  miniflarePackage = "miniflare",
  workerdPath,
  port,
  entry = workerEntry,
  coordinator = false,
  onLog,
}) {
  // The Worker names its own origin in challenges, so the port has to be known before it starts.
  port ||= await freePort();
  const url = `http://127.0.0.1:${port}`;
  /** @type {string[]} */
  const logs = [];
  const miniflare = await startMiniflare(miniflarePackage, workerdPath, {
    name: "obo-edge",
    host: "127.0.0.1",
    port,
    compatibilityDate: "2026-04-01",
    modules: await bundleWorker(entry),
    bindings: { OBO_CONFIG: { publicOrigin: url, ...config }, ...variables, ...secrets },
    kvNamespaces: ["OBO_STORE"],
    ...(coordinator && { durableObjects: { OBO_COORDINATOR: { className: "Coordinator", useSQLite: true } } }),
    // A look-up of this machine's location has no place in a test.
    cf: false,
    handleStructuredLogs({ level, message }) {
      logs.push(message);
      if (onLog) onLog(message);
      else if (level === "error" || level === "warn") console.error(`gateway: ${message}`);
    },
  });
  return {
    url,
    miniflare,
    /** Every line the Worker has logged, for asserting that none holds a token. */
    logs,
    /** The Workers KV namespace behind `OBO_STORE`. */
    store: () => miniflare.getKVNamespace("OBO_STORE"),
    close: () => miniflare.dispose(),
  };
}

/**
 * Bundles a Worker as wrangler does: conditions of workerd, `cloudflare:` modules left to the runtime, WebAssembly as
 * modules of its own.
 *
 * @param {string} entry path of the Worker's entry
 * @returns {Promise<{ type: string, path: string, contents: string | Uint8Array }[]>} Miniflare's modules, entry first
 */
export async function bundleWorker(entry) {
  const outdir = resolve("dist");
  const { outputFiles } = await build({
    entryPoints: { worker: entry },
    outdir,
    write: false,
    bundle: true,
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    mainFields: ["browser", "module", "main"],
    external: ["cloudflare:*", "node:*"],
    // "copy" keeps the import and hands the file over under the name it imports.
    loader: { ".wasm": "copy" },
    assetNames: "[name]",
    logLevel: "warning",
  });
  const modules = outputFiles.map(({ path: file, contents, text }) => {
    const path = relative(outdir, file);
    return path.endsWith(".wasm") ? { type: "CompiledWasm", path, contents } : { type: "ESModule", path, contents: text };
  });
  return modules.sort((one, other) => (other.path === "worker.js") - (one.path === "worker.js"));
}

/** Starts Miniflare with options of version 4's form, whichever its version is. */
export async function startMiniflare(miniflarePackage, workerdPath, options) {
  // Version 5 has options of another form, and a function that converts those of version 4.
  const { Miniflare, convertV4MiniflareOptions: convert = (same) => same } = await import(miniflarePackage);
  // Another workerd can be named by the environment only, which is read when the process starts.
  const before = process.env.MINIFLARE_WORKERD_PATH;
  if (workerdPath) process.env.MINIFLARE_WORKERD_PATH = workerdPath;
  const miniflare = new Miniflare(convert(options));
  try {
    await miniflare.ready;
    return miniflare;
  } catch (error) {
    await miniflare.dispose().catch(() => {});
    throw error;
  } finally {
    if (before === undefined) delete process.env.MINIFLARE_WORKERD_PATH;
    else process.env.MINIFLARE_WORKERD_PATH = before;
  }
}

/** @returns {Promise<number>} a port of 127.0.0.1 that was free a moment ago */
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
