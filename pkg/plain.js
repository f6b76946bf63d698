// Objects of callers and operators: which of their members are read, and which would be lost.

/** Whether it has members of its own that the core is to be told; a list has none. */
export function isPlain(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * A member that `Object.keys` does not name though the object answers by it, an accessor of its class for instance:
 * to drop it in silence could drop what tells one user from another. What all objects have is no member.
 */
export function hiddenMember(object, isMember) {
  for (let owner = object; owner !== null; owner = Object.getPrototypeOf(owner)) {
    // By its shape: other realms have an `Object.prototype` of their own.
    if (owner !== object && Object.hasOwn(owner, "hasOwnProperty")) return undefined;
    for (const name of Object.getOwnPropertyNames(owner)) {
      if (isMember(name) && !Object.prototype.propertyIsEnumerable.call(object, name)) return name;
    }
  }
  return undefined;
}
