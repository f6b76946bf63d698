// What a user imports.
export { ExchangeError } from "./error.js";
export { TokenExchanger } from "./host.js";
