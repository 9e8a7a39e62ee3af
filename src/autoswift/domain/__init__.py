"""The nouns: frozen values and the protocols between rooms. No I/O, no imports from other rooms."""
