"""What earlier runs taught: one row a run, counts only."""
