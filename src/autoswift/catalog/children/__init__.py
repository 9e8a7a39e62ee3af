"""Scripts that run in the training environment, by file path; autoswift itself never imports them."""
