// A caller's request on its way to the core.
import { encode } from "./instance.js";
import { hiddenMember } from "./plain.js";

/** The fields of a request by the core's numbers (`RequestField`); those of `subject` have its name before theirs. */
const FIELDS = new Map(
  ["assertion", "assertionType", "actorToken", "actorTokenType", "scopes", "resource", "audience", "claims"]
    .concat(["subject.issuer", "subject.tenant", "subject.id", "subject.context"])
    .map((name, number) => [name, number]),
);
const LISTS = new Set(["scopes", "resource", "audience"]);
/** How many elements of a list are handed to the core, which takes as many different ones. */
const MAX_LIST_LENGTH = 64;
/** The fields that are no text. */
const KINDS = new Map([
  ["subject", "an object"],
  ["fromCache", "a boolean"],
  ["signal", "an AbortSignal"],
]);

/** A request as it was when it was made: its fields in a row, its signal, and what is wrong with its form. */
export function read(request) {
  const described = { fields: [], fromCache: true, signal: undefined, wrong: undefined };
  const wrong = (name, problem) => (described.wrong ??= { name, problem });
  const list = (name, value) => {
    if (value.length > MAX_LIST_LENGTH) return wrong(name, "has too many elements");
    try {
      described.fields.push(name, [...value]);
    } catch {
      wrong(name, "cannot be read");
    }
  };
  const take = (object, prefix) => {
    const hidden = hiddenMember(object, (key) => FIELDS.has(prefix + key) || KINDS.has(prefix + key));
    if (hidden) wrong(prefix + hidden, "must be an enumerable member of the object itself");
    for (const key of Object.keys(object)) {
      const name = prefix + key;
      let value;
      try {
        value = object[key];
      } catch {
        wrong(name, "cannot be read");
        continue;
      }
      if (value === undefined || value === null) continue;
      // A dotted name is a part of `subject` only within it.
      if (FIELDS.has(name) && !key.includes(".")) {
        if (typeof value === "string") described.fields.push(name, value);
        else if (LISTS.has(name) && Array.isArray(value)) list(name, value);
        else wrong(name, LISTS.has(name) ? "must be a string or a list of strings" : "must be a string");
      } else if (name === "subject" && typeof value === "object") {
        const before = described.fields.length;
        take(value, "subject.");
        if (described.fields.length === before) wrong(name, "must name an issuer and an id");
      } else if (name === "fromCache" && typeof value === "boolean") described.fromCache = value;
      else if (name === "signal" && typeof value.aborted === "boolean" && typeof value.addEventListener === "function") {
        described.signal = value;
      } else if (KINDS.has(name)) wrong(name, `must be ${KINDS.get(name)}`);
      else wrong(name, "is not a known field");
    }
  };
  if (typeof request === "object" && request !== null) take(request, "");
  return described;
}

/** Describes a request to the core, field by field; the core says what is wrong with one. */
export function describe(core, { fields, fromCache, wrong }) {
  core.describe(fromCache);
  if (wrong) core.wrong_field(wrong.name, wrong.problem);
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index];
    const value = fields[index + 1];
    for (const text of typeof value === "string" ? [value] : value) {
      if (typeof text === "string") core.field(FIELDS.get(name), encode(text));
      else core.wrong_field(name, "must be a string or a list of strings");
    }
  }
}

/** A request from its fields in a row, each name before its value, as the core has them. */
export function fromFields(fields) {
  const request = {};
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index];
    if (LISTS.has(name)) (request[name] ??= []).push(fields[index + 1]);
    else request[name] = fields[index + 1];
  }
  // None is a list, too.
  request.scopes ??= [];
  return request;
}
