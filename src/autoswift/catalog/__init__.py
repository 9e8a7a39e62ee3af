"""Models: their facts, where they come from, and their files, staged safely."""
