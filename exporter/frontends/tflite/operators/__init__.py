"""One function an operator: what a TFLite builtin is in ONNX. Every module of this package is imported by the registry."""
