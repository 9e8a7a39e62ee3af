"""Draws docs/memory.svg: predicted against measured peak memory, beside two rules of thumb, and the reserved bounds.

    python scripts/memory_figure.py [FILE.jsonl …]     without: benchmarks/data/memory_measured_*.jsonl

A cell measured in several files is taken from the last. Its prediction is the one in the file, made before it ran; the
bounds of what the allocator reserves are today's, which were fitted on the first run.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "data"
OUT = ROOT / "docs" / "memory.svg"
GIB = 2**30
LOW, HIGH = 1.0, 200.0
TICKS = (1, 2, 5, 10, 20, 50, 100, 200)
SIDE, LEFT, TOP = 430, 62, 104
RIGHT, WIDE, FLAT = 578, 390, 156
SECOND = TOP + SIDE - FLAT
WIDTH, HEIGHT = RIGHT + WIDE + 36, TOP + SIDE + 62
ERROR, OVER = 3.0, 25.0
"""Ends of the right axes, per cent."""
METHODS = {"lora": "LoRA", "qlora": "QLoRA", "full": "full"}
STYLE = """
svg{--paper:#fff;--ink:#15191e;--soft:#55606b;--rule:#e6eaed;--band:#eef4f6;--ours:#0a6e8a;--rule2:#9aa4ae;--times:#7d8226;
--guess:#8a8fa8;--lora:#0a6e8a;--qlora:#a3558f;--full:#c2631c}
@media(prefers-color-scheme:dark){svg{--paper:#111519;--ink:#e8ecef;--soft:#a8b2bc;--rule:#262e36;--band:#18222a;--ours:#4fc0df;
--rule2:#5d6873;--times:#c3c760;--guess:#8e95b4;--lora:#4fc0df;--qlora:#d58fc3;--full:#e8955a}}
text{fill:var(--ink);font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.t{font-size:17px;font-weight:600}.h{font-weight:600;font-size:13px}.s,.a{fill:var(--soft)}.a{font-size:11px}
.band{fill:var(--band)}
.g{stroke:var(--rule);fill:none}.d{stroke:var(--rule2);fill:none}
.times{fill:none;stroke:var(--times);stroke-width:1.4}.guess{fill:none;stroke:var(--guess);stroke-width:1.4}
.lora{fill:var(--lora)}.qlora{fill:var(--qlora)}.full{fill:var(--full)}.bar{stroke-width:3;stroke-linecap:round}
line.lora{stroke:var(--lora)}line.qlora{stroke:var(--qlora)}line.full{stroke:var(--full)}
.tt{fill:var(--times)}.gt{fill:var(--guess)}
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One that ran: GiB; `high` is the upper bound over what was reserved, a share."""

    method: str
    measured: float
    predicted: float
    weights: float
    high: float

    @property
    def error(self) -> float:
        """Of the prediction, per cent."""
        return 100 * (self.predicted / self.measured - 1)


def cells(files: list[Path]) -> list[Cell]:
    """Cells that ran with expandable segments, the smallest first."""
    predictions = json.loads((DATA / "memory_predictions.json").read_text(encoding="utf-8"))
    rows = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            sound = row["kind"] == "expandable" and not row.get("oom") and "error" not in row
            if sound and row["cell"] in predictions:
                rows[row["cell"]] = row
    found = []
    for name, row in rows.items():
        known = predictions[name]
        most = max(row["total"] - GIB // 2, row["allocated"])  # no card reserves more than it has
        found.append(
            Cell(
                method=name.split()[1],
                measured=row["allocated"] / GIB,
                predicted=row["predicted"]["peak"] / GIB,
                weights=2 * known["parameters"] / GIB,
                high=min(known["expandable"]["high"], most) / row["reserved"] - 1,
            )
        )
    return sorted(found, key=lambda one: one.measured)


def share(values: list[float], part: float) -> float:
    """A quantile: the smallest value that so many are not above."""
    return sorted(values)[max(math.ceil(part * len(values)) - 1, 0)]


def place(gib: float) -> float:
    """0 to SIDE on a logarithmic axis."""
    return SIDE * math.log(min(max(gib, LOW), HIGH) / LOW) / math.log(HIGH / LOW)


def scatter(found: list[Cell]) -> list[str]:
    """Predicted against measured."""
    base = TOP + SIDE
    out = []
    for tick in TICKS:
        x, y = LEFT + place(tick), base - place(tick)
        out.append(f'<path class="g" d="M{x:.1f} {TOP}V{base}M{LEFT} {y:.1f}h{SIDE}"/>')
        out.append(f'<text class="a" x="{x:.1f}" y="{base + 17}" text-anchor="middle">{tick}</text>')
        out.append(f'<text class="a" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    out.append(f'<path class="d" d="M{LEFT} {base}L{LEFT + SIDE} {TOP}"/>')
    for kind, factor in (("times", 1.2), ("guess", 4.0)):
        for one in found:
            x, y = LEFT + place(one.measured), base - place(factor * one.weights)
            if kind == "times":
                out.append(f'<circle class="times" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>')
            else:
                out.append(f'<path class="guess" d="M{x - 3.4:.1f} {y + 2.6:.1f}h6.8l-3.4 -6z"/>')
    for one in found:
        x, y = LEFT + place(one.measured), base - place(one.predicted)
        out.append(f'<circle class="{one.method}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    middle = LEFT + SIDE / 2
    out += [
        f'<text class="s" x="{middle}" y="{base + 38}" text-anchor="middle">measured, GiB</text>',
        f'<text class="s" transform="translate(18 {TOP + SIDE / 2}) rotate(-90)" text-anchor="middle">'
        "predicted, GiB</text>",
        f'<circle class="lora" cx="{LEFT + 16}" cy="{TOP + 18}" r="4"/>',
        f'<text class="h" x="{LEFT + 28}" y="{TOP + 22}">autoswift fit</text>',
        f'<circle class="times" cx="{LEFT + 16}" cy="{TOP + 38}" r="3.2"/>',
        f'<text x="{LEFT + 28}" y="{TOP + 42}">weights × 1.2</text>',
        f'<path class="guess" d="M{LEFT + 12.6} {TOP + 60.6}h6.8l-3.4 -6z"/>',
        f'<text x="{LEFT + 28}" y="{TOP + 62}">weights × 4 (accelerate, Adam)</text>',
    ]
    return out


def strip(found: list[Cell], top: int, values: list[float], ends: tuple[float, float], ticks: list[int]) -> list[str]:
    """A mark a cell, from zero to its value in per cent."""
    low, high = ends

    def y_of(value: float) -> float:
        return top + FLAT * (1 - (min(max(value, low), high) - low) / (high - low))

    out = []
    for tick in ticks:
        kind, sign = ("d", "") if tick == 0 else ("g", "+" if tick > 0 else "−")
        out.append(f'<path class="{kind}" d="M{RIGHT} {y_of(tick):.1f}h{WIDE}"/>')
        label = f"{sign}{abs(tick)} %"
        out.append(f'<text class="a" x="{RIGHT - 8}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{label}</text>')
    step = WIDE / len(found)
    for index, (one, value) in enumerate(zip(found, values, strict=True)):
        x, y = RIGHT + (index + 0.5) * step, y_of(value)
        out.append(f'<line class="bar {one.method}" x1="{x:.1f}" y1="{y_of(0):.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
        if value > high or value < low:  # beyond the axis
            tip = -6 if value > high else 6
            out.append(f'<path class="{one.method}" d="M{x - 4:.1f} {y:.1f}h8l-4 {tip}z"/>')
    return out


def main() -> None:
    """See the head of this file."""
    files = [Path(name) for name in sys.argv[1:]] or sorted(DATA.glob("memory_measured_*.jsonl"))
    found = cells(files)
    errors, over = [one.error for one in found], [100 * one.high for one in found]
    off = [abs(value) for value in errors]
    head = f"median {share(off, 0.5):.2f} % off, 95 of 100 within {share(off, 0.95):.2f} %"
    bound = f"from {min(over):+.1f} % to {max(over):+.1f} %, median {share(over, 0.5):+.1f} %".replace("-", "−")
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Predicted against measured peak memory of training steps">',
        f"<style>{STYLE.strip()}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>',
        f'<text class="t" x="{LEFT}" y="34">Peak memory of a training step: predicted without a GPU, measured '
        "on an H100</text>",
        f'<text class="s" x="{LEFT}" y="56">{len(found)} cells: 0.5B to 7B and shapes that stand in no table; '
        "256 to 32,768 tokens a step</text>",
        *scatter(found),
        f'<text class="h" x="{RIGHT}" y="{TOP - 32}">Prediction before it ran, over max_memory_allocated</text>',
        f'<text class="s" x="{RIGHT}" y="{TOP - 15}">{head}</text>',
        f'<rect class="band" x="{RIGHT}" y="{TOP + FLAT / 3:.1f}" width="{WIDE}" height="{FLAT / 3:.1f}"/>',
        *strip(found, TOP, errors, (-ERROR, ERROR), [-3, -1, 0, 1, 3]),
        f'<text class="h" x="{RIGHT}" y="{SECOND - 32}">Upper bound, over max_memory_reserved</text>',
        f'<text class="s" x="{RIGHT}" y="{SECOND - 15}">{bound}</text>',
        *strip(found, SECOND, over, (0.0, OVER), [0, 5, 10, 20]),
        f'<text class="s" x="{RIGHT + WIDE / 2}" y="{TOP + SIDE + 38}" text-anchor="middle">cells, the smallest '
        "first</text>",
    ]
    x = RIGHT
    for method, name in METHODS.items():
        out.append(f'<circle class="{method}" cx="{x + 4}" cy="{TOP + SIDE + 16}" r="4"/>')
        out.append(f'<text class="a" x="{x + 13}" y="{TOP + SIDE + 20}">{name}</text>')
        x += 70
    OUT.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
