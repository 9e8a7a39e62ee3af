"""What this machine can do: its devices, the memory a training step needs, how fast it goes."""
