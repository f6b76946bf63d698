// The smallest Worker that uses the package, as the README begins.
import { ExchangeError, TokenExchanger } from "obo-edge";

let exchanger;

export default {
  async fetch(request, env, ctx) {
    exchanger ??= new TokenExchanger({
      tokenEndpoint: "https://login.example/oauth2/v2.0/token",
      clientId: "gateway",
      clientAuthentication: { method: "client_secret_post", clientSecret: env.CLIENT_SECRET },
      store: env.TOKENS,
      storeSecrets: env.STORE_SECRET,
    });
    // A real Worker verifies the token first.
    const assertion = request.headers.get("authorization")?.replace(/^bearer /i, "");
    try {
      const { expiresAt, source } = await exchanger.exchange({ assertion, scopes: "api://mcp-files/tools.call" }, ctx);
      return Response.json({ expiresAt, source });
    } catch (error) {
      if (!(error instanceof ExchangeError)) throw error;
      return Response.json({ reason: error.reason, field: error.field }, { status: 502 });
    }
  },
};
