"""Public helpers for tests and plug-in authors: contract classes, tiny models, fault injection."""
