"""What TensorRT and TensorRT-RTX share: compile a graph, cache the engine, run it on a GPU."""
