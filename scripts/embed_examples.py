"""Embeds the labelled examples, so that the first sentence of an installation need not wait for it.

    .venv/bin/python scripts/embed_examples.py

Writes src/autoswift/tables/examples-<encoder>-<key>.npy (one byte a dimension) and removes those of older tables. Run
it after a change of tables/examples_tasks.yaml; without the file each machine computes the vectors once.
"""

from __future__ import annotations

import sys

from autoswift.understand import nearest
from autoswift.understand.embedding import SentenceEncoder


def main() -> int:
    """Writes the file of the table as it is now."""
    encoder = SentenceEncoder(threads=2)
    path = nearest.SHIPPED / f"examples-{encoder.name}-{nearest.key_of(encoder.name)}.npy"
    for old in nearest.SHIPPED.glob(f"examples-{encoder.name}-*.npy"):
        old.unlink()
    nearest.keep(path, nearest.embedded(encoder))
    path.chmod(0o644)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(nearest.examples())} examples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
