"""What went wrong, and how the plan changes."""
