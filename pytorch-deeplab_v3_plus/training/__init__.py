"""From options to a trained network: the loop, its step, and what a run leaves behind."""
