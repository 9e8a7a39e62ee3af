"""`python -m autoswift` is the same as `autoswift`."""

from autoswift.cli import main

main()
