"""Scores: the task's metric, the test set, base against tuned."""
