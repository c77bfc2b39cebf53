"""The memories as tools of the Model Context Protocol: over stdio, and within the HTTP service."""

NOT_INSTALLED = "MCP needs the extra mcp: uv sync --extra mcp, or pip install mcp"
