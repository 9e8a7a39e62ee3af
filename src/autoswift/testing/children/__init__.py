"""Scripts of fault injection that run in the training environment; started by path, never imported."""
