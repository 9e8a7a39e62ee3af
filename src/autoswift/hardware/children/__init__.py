"""Small programs that run in a process of their own."""
