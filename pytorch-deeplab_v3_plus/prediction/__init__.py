"""The network's prediction for images of any size: files in, pictures out; ONNX."""
