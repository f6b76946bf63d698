/** The package in the MCP conformance suite: cross-app access (SEP-990), both legs of the identity assertion. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const scenario = "auth/cross-app-access-complete-flow";
const checkout = fileURLToPath(new URL("../..", import.meta.url));
const suite = "node_modules/@modelcontextprotocol/conformance/dist/index.js";

/** Runs the suite's scenario on a client program; what the suite says, and its checks. */
async function runScenario(t, client) {
  const folder = await mkdtemp(join(tmpdir(), "obo-edge-"));
  t.after(() => rm(folder, { recursive: true }));
  // The suite splits the command at spaces and has a shell run it, so it is by relative paths.
  const args = [suite, "client", "--command", `node ${client}`, "--scenario", scenario, "--output-dir", folder];
  const child = spawn(process.execPath, ["--import", "./tests/providers/loopback-only.js", ...args], {
    cwd: checkout,
    env: { ...process.env, PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}` },
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill());
  const [stdout, stderr, [exitCode]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  const results = (await readdir(folder, { recursive: true })).find((name) => name.endsWith("checks.json"));
  assert.ok(results, `the suite gave no results; it wants Node 22 or later and this is ${process.version}:\n${stderr.slice(-2000)}`);
  const checks = JSON.parse(await readFile(join(folder, results), "utf8"));
  return { exitCode, printed: stdout + stderr, checks };
}

/** The summary as the suite prints it, its checks without what it only notes. */
function summary({ printed }) {
  const lines = printed.split("\n");
  const results = lines.findIndex((line) => line.startsWith("Test Results"));
  const checks = lines.slice(0, results).filter((line) => /SUCCESS|FAILURE|WARNING/.test(line));
  return [scenario, ...checks, ...lines.slice(results)].join("\n");
}

test("every check of the cross-app access scenario passes with the package's exchanger", { timeout: 60_000 }, async (t) => {
  const run = await runScenario(t, "tests/providers/cross-app-access-client.js");
  console.log(summary(run));
  assert.equal(run.exitCode, 0, run.printed);
  assert.deepEqual(run.checks.filter(({ status }) => !["SUCCESS", "INFO"].includes(status)), []);
  const passed = new Set(run.checks.filter(({ status }) => status === "SUCCESS").map(({ id }) => id));
  const wanted = ["complete-flow-token-exchange", "complete-flow-jwt-bearer", "authorization-server-metadata", "valid-bearer-token"];
  assert.deepEqual(wanted.filter((id) => !passed.has(id)), []);
});

test("the same scenario fails a client that does nothing", { timeout: 60_000 }, async (t) => {
  const run = await runScenario(t, "tests/providers/loopback-only.js");
  assert.equal(run.exitCode, 1);
  const failed = run.checks.filter(({ status }) => status === "FAILURE").map(({ id }) => id);
  assert.deepEqual(failed.sort(), ["complete-flow-jwt-bearer", "complete-flow-token-exchange"]);
});
