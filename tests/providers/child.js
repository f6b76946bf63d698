/** Servers that are programs of their own: started, waited for, ended. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

/** A cold Java on a busy machine takes its time; a server that has not answered by then will not. */
const startLimitMs = 180_000;
/** How long a server may take to end by itself. */
const endLimitMs = 20_000;
/** How much of what a server prints is kept, to show where it does not start. */
const keptLines = 40;
/** What cuts a test run short; Node ends by them without "exit", in which servers are ended. */
const endSignals = ["SIGINT", "SIGTERM", "SIGHUP"];
const exitBySignal = () => process.exit(1);

/**
 * Starts a program and waits until its server answers.
 *
 * @param {object} options
 * @param {string} options.name for messages
 * @param {string} options.program
 * @param {string[]} options.args
 * @param {string} [options.cwd]
 * @param {Record<string, string>} options.env what is added to this process's own environment
 * @param {string} options.readyUrl answers 200 once the server is up
 */
export async function startServer({ name, program, args, cwd, env, readyUrl }) {
  const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const printed = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      printed.push(...text.split("\n").filter(Boolean));
      printed.splice(0, printed.length - keptLines);
    });
  }
  const failure = (what) => new Error(`${name} ${what}. Its last lines:\n${printed.join("\n")}`);

  let startError;
  child.on("error", (error) => (startError = error));
  const isRunning = () => child.exitCode === null && child.signalCode === null && !startError;
  // Not "close": a script's own child may hold its output open.
  const ended = once(child, "exit").catch(() => {});
  // A test run that is cut short leaves nothing behind. A script passes this signal on, as it could not SIGKILL.
  const endWithUs = () => child.kill("SIGTERM");
  process.once("exit", endWithUs);
  // One listener for all servers of the process: adding it again does nothing more than the first time.
  for (const signal of endSignals) if (!process.listeners(signal).includes(exitBySignal)) process.on(signal, exitBySignal);

  async function close() {
    process.removeListener("exit", endWithUs);
    const giveUp = setTimeout(() => child.kill("SIGKILL"), endLimitMs);
    if (isRunning()) {
      child.kill("SIGTERM");
      await ended;
    }
    clearTimeout(giveUp);
    child.stdout.destroy();
    child.stderr.destroy();
  }

  const end = Date.now() + startLimitMs;
  while (!(await answers(readyUrl))) {
    if (!isRunning()) {
      process.removeListener("exit", endWithUs);
      throw failure(startError ? `cannot be started: ${startError.message}` : `ended with ${child.exitCode ?? child.signalCode}`);
    }
    if (Date.now() >= end) {
      await close();
      throw failure(`did not answer within ${startLimitMs / 1000} s`);
    }
    await sleep(100);
  }
  return { close };
}

async function answers(url) {
  const response = await fetch(url).catch(() => undefined);
  await response?.arrayBuffer();
  return response?.ok ?? false;
}
