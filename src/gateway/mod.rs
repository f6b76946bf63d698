//! What an MCP gateway decides, as pure functions.
