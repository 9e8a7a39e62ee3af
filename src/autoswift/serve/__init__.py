"""Serving: engines, the supervisor that keeps one up, probes and load test of what it serves."""
