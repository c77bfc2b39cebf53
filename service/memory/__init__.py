"""Memories: what they are, what can be done with them, and where they are kept."""
