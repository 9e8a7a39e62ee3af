"""Programs that run by path in the training environment; they import nothing of autoswift."""
