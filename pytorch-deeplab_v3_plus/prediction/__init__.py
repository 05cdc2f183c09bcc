"""What inference does: find the images, run the network over them, write pictures; or write the network as ONNX."""
