"""Options, the training loop, evaluation, checkpoints and what a run leaves behind."""
