"""From options to a trained network: the loop, its step, and what a run leaves behind."""

from training.build import build_trainer
from training.options import TrainOptions
from training.trainer import Trainer

__all__ = ["TrainOptions", "Trainer", "build_trainer"]
