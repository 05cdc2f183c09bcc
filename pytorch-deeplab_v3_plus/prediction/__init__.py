"""The network's prediction for images of any size: files in, pictures out; ONNX."""

from prediction.predict import evaluation_mode, predict, probabilities, segment, short_side

__all__ = ["evaluation_mode", "predict", "probabilities", "segment", "short_side"]
