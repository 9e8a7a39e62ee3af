"""Embeds the labelled examples, so that the first sentence of an installation need not wait for it.

    .venv/bin/python scripts/embed_examples.py

Writes src/autoswift/tables/examples-<encoder>-<key>.npy (one byte a dimension) and fits-<encoder>-<key>.npy (the linear
fits to them) and removes those of older tables. Run it after a change of tables/examples_tasks.yaml; without the files
each machine computes the vectors once, and the fits at each start.
"""

from __future__ import annotations

import sys

import numpy as np

from autoswift.understand import nearest
from autoswift.understand.embedding import SentenceEncoder


def main() -> int:
    """Writes the file of the table as it is now."""
    encoder = SentenceEncoder(threads=2)
    path = nearest.SHIPPED / f"examples-{encoder.name}-{nearest.key_of(encoder.name)}.npy"
    fits = nearest.SHIPPED / nearest.fits_file(encoder.name)
    for old in (*nearest.SHIPPED.glob(f"examples-{encoder.name}-*.npy"), *nearest.SHIPPED.glob("fits-*.npy")):
        old.unlink()
    nearest.keep(path, nearest.embedded(encoder))
    found = nearest.learned(encoder).fits  # none is shipped now: they are made of the vectors just written
    np.save(fits, np.concatenate([found[fact] for fact in nearest.FACTS], axis=1), allow_pickle=False)
    for one in (path, fits):
        one.chmod(0o644)
        print(f"{one.name}: {one.stat().st_size} bytes, {len(nearest.examples())} examples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
