"""The networks, and reading their checkpoints."""

from modeling.checkpoint import load_checkpoint, load_network
from modeling.networks import NETWORKS, build_network

__all__ = ["NETWORKS", "build_network", "load_checkpoint", "load_network"]
