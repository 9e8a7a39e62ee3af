"""Draws docs/memory.svg: predicted against measured peak memory, beside two rules of thumb.

python scripts/memory_figure.py [benchmarks/data/memory_measured_h100.jsonl]
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "benchmarks" / "data" / "memory_measured_h100.jsonl"
PREDICTED = ROOT / "benchmarks" / "data" / "memory_predictions.json"
OUT = ROOT / "docs" / "memory.svg"
GIB = 2**30
SIDE, LEFT, TOP = 460, 64, 70
LOW, HIGH = 1.0, 200.0
TICKS = (1, 2, 5, 10, 20, 50, 100, 200)
SERIES = (  # name, colour, radius; drawn in this order, so that ours lies on top
    ("weights × 1.2", "#b8b8b8", 3.0),
    ("4 × weights (accelerate)", "#e0a458", 3.0),
    ("autoswift fit", "#1f6feb", 3.6),
)


def place(gib: float) -> float:
    """0 to SIDE on a logarithmic axis."""
    return SIDE * math.log(min(max(gib, LOW), HIGH) / LOW) / math.log(HIGH / LOW)


def points(measured: Path) -> list[tuple[float, tuple[float, float, float]]]:
    """Measured GiB and the three guesses, for each cell that ran."""
    predictions = json.loads(PREDICTED.read_text(encoding="utf-8"))
    found = []
    for line in measured.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("kind") != "expandable" or row.get("oom") or "error" in row:
            continue
        prediction = predictions[row["cell"]]
        weights = 2 * prediction["parameters"] / GIB
        found.append((row["allocated"] / GIB, (1.2 * weights, 4 * weights, prediction["expandable"]["peak"] / GIB)))
    return found


def main() -> None:
    """See the head of this file."""
    found = points(Path(sys.argv[1]) if len(sys.argv) > 1 else MEASURED)
    errors = sorted(abs(guess[2] / gib - 1) for gib, guess in found)
    median, p95 = errors[len(errors) // 2], errors[math.ceil(0.95 * len(errors)) - 1]
    width, height = LEFT + SIDE + 30, TOP + SIDE + 58
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Predicted against measured peak memory">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">Peak memory of a training step, H100</text>',
        f'<text x="{LEFT}" y="42" fill="#555">{len(found)} cells; predicted before they ran; median error '
        f"{median:.2%}, 95th percentile {p95:.2%}</text>",
    ]
    for tick in TICKS:
        x, y = LEFT + place(tick), TOP + SIDE - place(tick)
        out.append(f'<path d="M{x:.1f} {TOP}V{TOP + SIDE}M{LEFT} {y:.1f}H{LEFT + SIDE}" stroke="#eee"/>')
        out.append(f'<text x="{x:.1f}" y="{TOP + SIDE + 17}" text-anchor="middle" fill="#555">{tick}</text>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{tick}</text>')
    out.append(f'<path d="M{LEFT} {TOP + SIDE}L{LEFT + SIDE} {TOP}" stroke="#888" stroke-dasharray="4 3"/>')
    for index, (name, colour, radius) in enumerate(SERIES):
        for gib, guesses in found:
            x, y = LEFT + place(gib), TOP + SIDE - place(guesses[index])
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" fill-opacity="0.8"/>')
        out.append(f'<circle cx="{LEFT + 14}" cy="{TOP + 16 + 18 * index}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{LEFT + 24}" y="{TOP + 20 + 18 * index}">{name}</text>')
    out.append(f'<text x="{LEFT + SIDE / 2}" y="{height - 14}" text-anchor="middle">measured, GiB</text>')
    out.append(
        f'<text transform="translate(16 {TOP + SIDE / 2}) rotate(-90)" text-anchor="middle">predicted, GiB</text>'
    )
    OUT.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
