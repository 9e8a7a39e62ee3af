"""The run folder: the one versioned record that every door reads, and the child processes that work on it."""
