// The package in Node, Deno and Bun, each in a process of its own that has to end by itself.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { decodeJwt } from "jose";
import { newStoreSecret, scope, startIssuer } from "./support.js";

const program = fileURLToPath(new URL("./program.js", import.meta.url));
const root = fileURLToPath(new URL("../../", import.meta.url));

let issuer;

before(async () => {
  issuer = await startIssuer();
});
after(() => issuer.close());

/** Runs a command to its end; what it printed, and how long it lived on after its answer. */
async function run(command, commandArguments) {
  const child = spawn(command, commandArguments, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) child[name].setEncoding("utf8").on("data", (text) => (output[name] += text));
  const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
  const [code, signal] = await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (...outcome) => resolve(outcome));
  });
  clearTimeout(timer);
  return { code, signal, ...output, endedAt: Date.now() };
}

/** Runs the program in a runtime, and checks all that it says. */
async function checkProgram(runtime, command, commandArguments) {
  issuer.tokenRequests.length = 0;
  const assertion = await issuer.mintUserToken({ subject: "ada" });
  const input = { options: issuer.exchangerOptions({ storeSecrets: newStoreSecret() }), request: { assertion, scopes: scope } };
  const ended = await run(command, [...commandArguments, program, JSON.stringify(input)]);
  assert.deepEqual({ code: ended.code, signal: ended.signal, stderr: ended.stderr }, { code: 0, signal: null, stderr: "" });
  const said = JSON.parse(ended.stdout);
  assert.equal(said.runtime, runtime);
  assert.equal(said.accessTokens.length, 1);
  assert.equal(decodeJwt(said.accessTokens[0]).sub, "ada");
  assert.deepEqual(said.sources, ["issuer", "flight"]);
  assert.equal(said.hit, "memory");
  assert.deepEqual(said.errors, [
    [true, "assertion_rejected", null],
    [true, "invalid_request", "assertion"],
    [true, "cancelled", null],
    [true, "misconfigured", "clientID"],
  ]);
  assert.equal(issuer.tokenRequests.length, 2);
  assert.deepEqual([said.stats.joins, said.stats.memoryHits, said.stats.flights, said.stats.storeFailures], [99, 1, 0, 0]);
  assert.ok(said.events.includes("eviction"));
  const after = ended.endedAt - said.answeredAt;
  assert.ok(after < 2000, `it lived on for ${after} ms`);
}

test("a program in Node loads the package without an init call and ends by itself", () => checkProgram("node", process.execPath, []));

test("a program in Node ends by itself after a time-out, a cancellation and a store that hangs", async () => {
  const script = `
    import { TokenExchanger } from "obo-edge";
    const never = () => new Promise(() => {});
    const exchanger = new TokenExchanger({
      tokenEndpoint: "https://login.example/token", clientId: "c", timeoutMs: 1000, fetch: never,
      clientAuthentication: { method: "client_secret_post", clientSecret: "s" },
      store: { get: never, put: never, delete: never }, storeSecrets: ${JSON.stringify(newStoreSecret())},
    });
    const late = await exchanger.exchange({ assertion: "a", scopes: "s" }).catch((error) => error);
    const left = await exchanger.exchange({ assertion: "b", scopes: "s", signal: AbortSignal.timeout(50) }).catch((error) => error);
    console.log(JSON.stringify({ reasons: [late.reason, left.reason], answeredAt: Date.now() }));
  `;
  const ended = await run(process.execPath, ["--input-type=module", "--eval", script]);
  assert.deepEqual([ended.code, ended.stderr], [0, ""]);
  const said = JSON.parse(ended.stdout);
  assert.deepEqual(said.reasons, ["unavailable", "cancelled"]);
  // The exchange that was left goes on for whoever may join it, for its second and no longer.
  assert.ok(ended.endedAt - said.answeredAt < 2000, `it lived on for ${ended.endedAt - said.answeredAt} ms`);
});

test("a program that only imports the package and makes an exchanger ends at once", async () => {
  const script = `import { TokenExchanger } from "obo-edge";
    new TokenExchanger({ tokenEndpoint: "https://login.example/token", clientId: "c", clientAuthentication: { method: "client_secret_basic", clientSecret: "s" } });`;
  const started = Date.now();
  const ended = await run(process.execPath, ["--input-type=module", "--eval", script]);
  assert.deepEqual([ended.code, ended.stdout, ended.stderr], [0, "", ""]);
  assert.ok(Date.now() - started < 3000);
});

test("the package loads with require too, as Node 22 and later allow it", async () => {
  const [major] = process.versions.node.split(".").map(Number);
  const script = `const { TokenExchanger } = require("obo-edge"); console.log(typeof TokenExchanger);`;
  const ended = await run(process.execPath, ["--input-type=commonjs", "--eval", script]);
  const canRequire = process.features.require_module === true || major >= 23;
  if (canRequire) assert.equal(ended.stdout, "function\n", ended.stderr);
  else assert.match(ended.stderr, /ERR_REQUIRE_ESM|ERR_PACKAGE_PATH_NOT_EXPORTED/);
});

/** The folders of npm's packages that carry a runtime's binary, one of which fits this machine. */
function binaryPackages(runtime) {
  const { platform, arch } = process;
  if (runtime === "deno") return [[`@deno/${platform}-${arch}${platform === "linux" ? "-glibc" : ""}`, "deno"]];
  const bunArch = arch === "arm64" ? "aarch64" : arch;
  const bunPlatform = platform === "win32" ? "windows" : platform;
  return ["", "-musl"].map((suffix) => [`@oven/bun-${bunPlatform}-${bunArch}${suffix}`, "bin/bun"]);
}

/** The binary of a runtime: of an environment variable, of npm's package, or of the machine. */
function binaryOf(runtime) {
  const named = process.env[`OBO_EDGE_${runtime.toUpperCase()}`];
  if (named) return named;
  const suffix = process.platform === "win32" ? ".exe" : "";
  const require = createRequire(import.meta.url);
  for (const [name, file] of binaryPackages(runtime)) {
    try {
      return join(dirname(require.resolve(`${name}/package.json`)), `${file}${suffix}`);
    } catch {
      // Not installed; the next may be.
    }
  }
  return (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, `${runtime}${suffix}`)).find(existsSync);
}

for (const [runtime, commandArguments] of [
  // No prompt, and no more rights than it needs.
  ["deno", ["run", "--quiet", "--no-prompt", "--no-lock", "--node-modules-dir=manual", "--allow-read", "--allow-net"]],
  ["bun", ["run"]],
]) {
  test(`a program in ${runtime} loads the package without an init call and ends by itself`, async () => {
    const binary = binaryOf(runtime);
    // Never skipped in silence: what was not run has not passed.
    assert.ok(binary, `no ${runtime} found: install ${binaryPackages(runtime)[0][0]} with npm, or name a binary in OBO_EDGE_${runtime.toUpperCase()}`);
    await checkProgram(runtime, binary, commandArguments);
  });
}
