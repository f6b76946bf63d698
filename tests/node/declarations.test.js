// The declarations where there are no types of Workers: those of the Web, and Node's way to find modules.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

test("middleware that uses the package compiles with the types of the Web alone", () => {
  const compiler = ["node_modules/typescript/bin/tsc", "--noEmit", "-p", "tests/types/web/tsconfig.json"];
  const { status, stdout, stderr } = spawnSync(process.execPath, compiler, { cwd: root, encoding: "utf8" });
  assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: "", stderr: "" });
});
