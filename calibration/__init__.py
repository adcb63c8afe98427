"""Fitting what training leaves open, on real frames: INT8 ranges and confidence."""
