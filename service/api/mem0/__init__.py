"""/mem0: the paths and fields of mem0's platform and of its open-source server; see README.md."""
