/**
 * The client under test of the MCP conformance suite's scenario of cross-app access: it is refused by the MCP server,
 * learns whose token to bring, has it made from the user's ID token by the package, and uses it.
 *
 * The suite gives the server's URL as the last argument, and who the user and the clients are in the environment.
 */

import assert from "node:assert/strict";
import { discoverOAuthProtectedResourceMetadata, extractWWWAuthenticateParams } from "@modelcontextprotocol/sdk/client/auth.js";
import { TokenExchanger } from "obo-edge";
import { connectMcpClient } from "../servers/mcp-client.js";

const url = process.argv.at(-1);
const context = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT);

const challenge = await fetch(url, { method: "POST" });
assert.equal(challenge.status, 401);
const { resourceMetadataUrl } = extractWWWAuthenticateParams(challenge);
const { resource, authorization_servers: servers } = await discoverOAuthProtectedResourceMetadata(url, { resourceMetadataUrl });
// RFC 9728 section 3.3: metadata of another resource is not this one's.
assert.equal(resource, url);

const exchanger = new TokenExchanger({
  grant: "identity-assertion",
  issuer: context.idp_issuer,
  clientId: context.idp_client_id,
  // The suite's identity provider authenticates nobody, and the package has no public client in this grant.
  clientAuthentication: { method: "client_secret_basic", clientSecret: "not looked at" },
  resourceAuthorizationServer: {
    issuer: servers[0],
    clientId: context.client_id,
    clientAuthentication: { method: "client_secret_basic", clientSecret: context.client_secret },
  },
});
const { accessToken } = await exchanger.exchange({ assertion: context.idp_id_token, scopes: [], resource });

const client = await connectMcpClient({ url, token: accessToken });
const { tools } = await client.listTools();
await client.callTool({ name: tools[0].name });
await client.close();
