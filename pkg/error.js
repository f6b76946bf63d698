// Why an exchange gave no token.
export class ExchangeError extends Error {
  constructor(failure) {
    super(failure.message);
    Object.assign(this, failure);
    this.name = "ExchangeError";
  }
}

export function misconfigured(field, problem) {
  return new ExchangeError({ reason: "misconfigured", message: `${field} ${problem}`, retryable: false, field });
}

export function instanceLost() {
  return new ExchangeError({ reason: "unavailable", message: "the WebAssembly instance broke and was replaced", retryable: true });
}
