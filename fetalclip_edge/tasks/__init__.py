"""From embeddings to answers: one file a task."""
