"""Measurements of the SDK on a device, and the simulated clip it is shown with."""
