/** Requests that are cancelled by the thousand leave nothing behind in the wasm memory. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { tokenResponse } from "./fixtures/partner.js";
import { eventually, requestOf, sleep, startWorld, tally } from "./fixtures/world.js";

const batchSize = 50;
const warmUpCount = 2_000;
const totalCount = 20_000;
/** An outcome stays in the table for five seconds, so the first 2 000 must take longer than that. */
const batchMs = 150;
/** Less than a tenth of what one leaked future in each request would come to. */
const toleranceBytes = 4 * 1024 * 1024;

let world;
before(async () => (world = await startWorld()));
after(() => world.close());

test(`${totalCount} cancelled requests leave the memory where ${warmUpCount} left it, and no flight under way`, async (context) => {
  const exchanger = world.exchanger({ options: { timeoutMs: 5000 } });
  // Tokens that leave the memory cache soon, for what is measured here is what leaks.
  world.partner.answer = (parameters) => ({ body: tokenResponse(parameters, "x".repeat(1200), { expires_in: 2 }) });
  const start = performance.now();
  let leftBefore;
  for (let made = 0; made < totalCount; made += batchSize) {
    if (made === warmUpCount) leftBefore = await settle("after the warm-up"); else if (made % 2000 === 0) console.log(made, (await exchanger.inspect()).memoryBytes);
    await Promise.all([cancelBatch(exchanger, made / batchSize), sleep(batchMs)]);
  }
  const leftAfter = await settle("at the end");
  assert.ok(leftAfter <= leftBefore + toleranceBytes, `the memory grew from ${leftBefore} to ${leftAfter} bytes`);

  const { token } = await exchanger.exchange({ request: requestOf("afterwards") });
  assert.equal(token.source, "issuer");

  /** What the memory comes to once nothing is under way any more. */
  async function settle(when) {
    await eventually("no flight", async () => (await exchanger.stats()).flights === 0);
    const { stats, memoryBytes } = await exchanger.inspect();
    const seconds = Math.round((performance.now() - start) / 1000);
    context.diagnostic(`${when}: ${memoryBytes} bytes of wasm memory, ${seconds} s, ${JSON.stringify(stats)}`);
    return memoryBytes;
  }
});

/** Two calls for each key, one leads and one follows; all of them are cancelled while the token endpoint thinks. */
async function cancelBatch(exchanger, batch) {
  const { token } = world.partner.valves;
  token.hold();
  const calls = Array.from({ length: batchSize }, (_, index) => {
    // As long as an access token is.
    const assertion = `assertion-${batch}-${index >> 1}-`.padEnd(1500, "a");
    return exchanger.parameters({ request: { assertion, scopes: "files.read" } });
  });
  const departing = world.depart(calls);
  await token.arrived(batchSize / 2);
  const answers = await departing.leave();
  token.open();
  world.partner.tokenRequests.length = 0;
  assert.deepEqual(tally(answers.map(({ left }) => left)), { AbortError: batchSize });
}
