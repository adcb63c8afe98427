"""The workshop: PyTorch models, captions, data and training. Never imported by the SDK."""
