"""ONNX Runtime service that turns a prompt into an image with a model version."""
