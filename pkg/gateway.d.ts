/** A gateway in front of MCP servers. See README.md. */
import type { ExchangeContext, ExchangerOptions, TokenExchanger } from "./index.js";

/**
 * Makes a gateway: it verifies the user's token, exchanges it, and forwards the request with the exchanged one.
 * @throws {ExchangeError} `misconfigured`, with the path of what is missing, wrong or unknown as `field`.
 */
export function createGateway(config: GatewayConfig): Gateway;

export interface Gateway {
  fetch(request: Request, ctx?: ExchangeContext): Promise<Response>;
  readonly exchanger: TokenExchanger;
}

export interface GatewayConfig {
  /** The origin that clients see. Every URL that is handed out begins with it, never with a `Host` header. */
  publicOrigin: string;
  /** Servers by name; each is at `/mcp/<name>`. */
  servers: Record<string, GatewayServer>;
  exchanger: ExchangerOptions;
  /** What fetches keys and forwards to servers; default the global one. */
  fetch?: typeof fetch;
}

export interface GatewayServer {
  type: "streamable-http";
  url: string;
  /** Which user tokens are taken. */
  inbound: {
    /** Exactly as `iss` has it. */
    issuer: string;
    /** Where the issuer's keys are; discovered by default. */
    jwksUri?: string;
    /** A token must have one of them. */
    audience: string | string[];
    /** A token must have all of them. */
    scopes: string | string[];
  };
  /** What they are exchanged for. */
  obo: {
    scopes: string | string[];
    resource?: string | string[];
    audience?: string | string[];
    /** The scope whose authorization request brings the consent screen that a 403 asks for. */
    consentScope?: string;
  };
}
