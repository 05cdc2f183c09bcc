"""The network's prediction for images of any size: files in, pictures out; ONNX."""

from prediction.evaluation_views import segment

__all__ = ["segment"]
