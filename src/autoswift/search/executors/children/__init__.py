"""Scripts that run where Ray is installed, started by path."""
