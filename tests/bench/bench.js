// What a cached token costs, beside the floor and beside what people use today. One run, one machine, one table.
//   node --expose-gc tests/bench/bench.js
import { execFileSync } from "node:child_process";
import { availableParallelism, cpus, loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { floor, msalNode, oboEdge, openidClient, tokenOf, userToken } from "./contenders.js";

const rounds = 9;
/** How long a round of one contender takes, about, in milliseconds. */
const roundMs = 150;
const concurrentMisses = 100;
/** More than the package remembers the digests of, fewer than it has room for. */
const manyUsers = 2000;

const budget = { hitUs: 6, instantiateMs: 5 };

const assertion = userToken();
/** What else the machine was doing; figures of a busy one say little. */
const [load] = loadavg();
const failures = [];

function check(holds, sentence) {
  if (!holds) failures.push(sentence);
}

function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** Microseconds per call of `work`, which is called `count` times, one after the other. */
async function microsecondsPerCall(work, count) {
  globalThis.gc?.();
  const start = performance.now();
  await work(count);
  return ((performance.now() - start) * 1000) / count;
}

/** A contender whose hits are awaited one by one, as a server does. */
async function awaited(name, contender, assertions = [assertion]) {
  for (const each of assertions) check((await contender.exchange(each)) === tokenOf(each), `${name} gave another token`);
  const requests = contender.requests();
  check(requests === assertions.length, `${name} made ${requests} requests for ${assertions.length} users`);
  return {
    name,
    async run(count) {
      for (let call = 0; call < count; call += 1) await contender.exchange(assertions[call % assertions.length]);
    },
    async verify() {
      for (const each of assertions) check((await contender.exchange(each)) === tokenOf(each), `${name} gave another token at a hit`);
      check(contender.requests() === requests, `${name} made requests when it should have hit`);
    },
  };
}

function floorContender() {
  const name = "floor: SHA-256 of node:crypto and a Map";
  const { fill, lookUp } = floor();
  fill(assertion);
  // Kept, so that no optimiser may leave the work out.
  let found;
  return {
    name,
    run(count) {
      for (let call = 0; call < count; call += 1) found = lookUp(assertion);
    },
    verify: () => check(found === tokenOf(assertion), `${name} found nothing`),
  };
}

/** Token requests that so many concurrent calls of a fresh contender make for one user. */
async function requestsOfMisses(name, contender) {
  const fresh = userToken();
  const start = performance.now();
  const tokens = await Promise.all(Array.from({ length: concurrentMisses }, () => contender.exchange(fresh)));
  const tookMs = performance.now() - start;
  check(tokens.every((token) => token === tokenOf(fresh)), `${name} gave another token at a miss`);
  return { requests: contender.requests(), tookMs };
}

/** The medians of several fresh processes. */
function instantiation() {
  const script = fileURLToPath(new URL("./instantiate.js", import.meta.url));
  const runs = Array.from({ length: rounds }, () => JSON.parse(execFileSync(process.execPath, [script], { encoding: "utf8" })));
  return Object.fromEntries(Object.keys(runs[0]).map((part) => [part, median(runs.map((run) => run[part]))]));
}

const names = {
  ours: "obo-edge: exchange()",
  oursMany: `obo-edge: the same, ${manyUsers} users in turn`,
  openid: "openid-client, KV read, in-flight Map",
  msal: "MSAL Node: acquireTokenOnBehalfOf()",
};
const contenders = [
  floorContender(),
  await awaited(names.ours, oboEdge()),
  await awaited(names.oursMany, oboEdge(), Array.from({ length: manyUsers }, () => userToken())),
  await awaited(names.openid, openidClient()),
  await awaited(names.msal, msalNode()),
];

// Warm up, and find out how many calls make a round.
for (const contender of contenders) {
  let count = 16;
  for (let took = 0; took < roundMs; count *= 2) {
    took = ((await microsecondsPerCall(contender.run, count)) * count) / 1000;
  }
  contender.count = Math.max(1, Math.round(count / 2));
  contender.figures = [];
}
// In turns, so that a slow moment of the machine is everybody's.
for (let round = 0; round < rounds; round += 1) {
  for (const contender of contenders) contender.figures.push(await microsecondsPerCall(contender.run, contender.count));
}
for (const contender of contenders) await contender.verify();

const misses = {
  [names.ours]: await requestsOfMisses(names.ours, oboEdge()),
  [names.openid]: await requestsOfMisses(names.openid, openidClient()),
  [names.msal]: await requestsOfMisses(names.msal, msalNode()),
};
check(misses[names.ours].requests === 1, `obo-edge made ${misses[names.ours].requests} requests for ${concurrentMisses} concurrent misses`);

const { compile, instantiate, firstExchanger } = instantiation();

const [{ model }] = cpus();
const number = (value, width = 9) => value.toFixed(value < 100 ? 2 : 0).padStart(width);
console.log(`Node ${process.versions.node}, ${process.platform} ${process.arch}, ${availableParallelism()} CPUs (${model.trim()}), load ${load.toFixed(1)}`);
console.log(`Assertions of ${assertion.length} bytes; a token endpoint and a KV in memory\n`);
console.log(`${`A hit, µs per call (${rounds} rounds)`.padEnd(44)}   median      best     worst`);
for (const { name, figures } of contenders) {
  console.log(`${name.padEnd(44)}${number(median(figures))} ${number(Math.min(...figures))} ${number(Math.max(...figures))}`);
}
console.log(`\n${`${concurrentMisses} concurrent misses of one user`.padEnd(44)} token requests        ms`);
for (const [name, { requests, tookMs }] of Object.entries(misses)) {
  console.log(`${name.padEnd(44)}${String(requests).padStart(15)} ${number(tookMs)}`);
}
console.log(`\nWebAssembly in a fresh process, ms (median of ${rounds}): compile ${number(compile, 0)}, instantiate ${number(instantiate, 0)}, first exchanger ${number(firstExchanger, 0)}`);

const hit = median(contenders.find(({ name }) => name === names.ours).figures);
const within = (value, most) => (value <= most ? "within" : "PAST");
console.log(`Budget: a hit ${number(hit, 0)} µs, ${within(hit, budget.hitUs)} ${budget.hitUs} µs; instantiation ${number(instantiate, 0)} ms, ${within(instantiate, budget.instantiateMs)} ${budget.instantiateMs} ms`);

for (const failure of failures) console.error(`error: ${failure}`);
process.exitCode = failures.length === 0 ? 0 : 1;
