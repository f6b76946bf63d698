// How long an issuer's keys count, by a clock that a test sets.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { IssuerKeys, KeysUnavailable } from "../../pkg/keys.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const server = { issuer: "https://issuer.example", jwksUri: "https://issuer.example/keys" };

let asked;
let answer;
let keys;

beforeEach((t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.UTC(2027, 0, 1) });
  asked = 0;
  answer = () => Response.json({ keys: [{ kty: "RSA", kid: `${asked}` }] });
  keys = new IssuerKeys(async () => ((asked += 1), answer()));
});

const keyId = async () => (await keys.get(server)).keys[0].kid;
const isAway = () => new Response("", { status: 503 });

test("keys count for ten minutes, and while the issuer is away for a day", async (t) => {
  assert.equal(await keyId(), "1");
  t.mock.timers.tick(10 * MINUTE - 1);
  assert.equal(await keyId(), "1");
  t.mock.timers.tick(1);
  assert.equal(await keyId(), "2");
  answer = isAway;
  t.mock.timers.tick(24 * HOUR - 1);
  assert.equal(await keyId(), "2");
  t.mock.timers.tick(1);
  await assert.rejects(keys.get(server), KeysUnavailable);
  // Asked at most once per half a minute, failed attempts included.
  assert.equal(asked, 3);
  t.mock.timers.tick(30_000);
  await assert.rejects(keys.get(server), KeysUnavailable);
  assert.equal(asked, 4);
});

test("a clock that was set back makes nothing count for longer", async (t) => {
  t.mock.timers.setTime(Date.UTC(2028, 0, 1));
  assert.equal(await keyId(), "1");
  t.mock.timers.setTime(Date.UTC(2027, 0, 1));
  assert.equal(await keyId(), "2");
  t.mock.timers.setTime(Date.UTC(2026, 0, 1));
  answer = isAway;
  await assert.rejects(keys.get(server), KeysUnavailable);
});
