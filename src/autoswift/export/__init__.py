"""Artefacts and their post-checks: merged model, GGUF."""
