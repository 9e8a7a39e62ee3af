"""Scripts for the training environment, started by path."""
