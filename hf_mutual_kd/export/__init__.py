"""ONNX files, checked."""
