"""The workshop's way out: PyTorch to ONNX to a bundle. Never imported by the SDK."""
