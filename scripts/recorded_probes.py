"""Makes tests/probes/NAME.json from the recorded answers in tests/probes/raw/NAME.

`python scripts/recorded_probes.py` rewrites them all; a new machine's answers come from its own probe
(`autoswift.hardware.source.recording`).
"""

from __future__ import annotations

from pathlib import Path

from autoswift.hardware.probe import probe, profile_json
from autoswift.hardware.source import recorded

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "probes"


def main() -> None:
    """Writes one file for each recording."""
    for raw in sorted((FOLDER / "raw").iterdir()):
        made = profile_json(probe(raw, recorded(raw)))
        (FOLDER / f"{raw.name}.json").write_text(made.rstrip("\n") + "\n", encoding="utf-8")
        print(raw.name)


if __name__ == "__main__":
    main()
