"""What carries out training and answers questions about models, each in a child process."""
