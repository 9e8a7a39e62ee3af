"""From a sentence to a task profile, from a data file to clean, split rows with their profile."""
