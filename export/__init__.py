"""Turns a sentence-transformers checkpoint into a bundle that the service runs."""
