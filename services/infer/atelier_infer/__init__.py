"""ONNX Runtime service that turns a prompt into a picture with a model version."""
