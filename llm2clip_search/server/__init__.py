"""The server: a page, a REST API, and the engine for assistants over MCP."""
