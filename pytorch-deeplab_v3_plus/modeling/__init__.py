"""The networks, and reading their checkpoints."""
