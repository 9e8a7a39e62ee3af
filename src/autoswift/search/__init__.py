"""Proposes configurations, watches their curves, says when to stop: one brain for every executor."""
