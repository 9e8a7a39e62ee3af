"""How often a sentence is understood rightly, a fact at a time, on labelled sentences.

    .venv/bin/python benchmarks/understand.py [--rules-only] [--json] [--quiet] [--data FILE.jsonl]

The sentences in data/sentences.jsonl have two splits: the tables may learn from `learn`, never from `held_out`. A third
are traps. data/README.md says what each set scored when it was seen for the first time. data/sentence_pairs.jsonl
holds the same frame twice with the words of two domains swapped: both must come out.
Prints the share that is right with its 95 % Wilson interval, and every mistake; ends with 1 below the bounds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autoswift.understand.sentence import Tools, tools, understand_batch

FACTS = ("language", "domain", "modality", "goal", "deploy")
BOUNDS = {"language": 1.0, "domain": 0.95, "modality": 0.98, "goal": 0.93}
"""What the held-back part must reach. Of language a single sentence may be arguable: "mixed" has no sharp edge."""
DATA = Path(__file__).parent / "data"
Z = 1.96
"""Standard normal quantile of a two-sided 95 % interval."""


def wilson(right: int, of: int) -> tuple[float, float]:
    """95 % interval of a share."""
    if not of:
        return 0.0, 1.0
    share, slack = right / of, Z * Z / of
    middle = (share + slack / 2) / (1 + slack)
    half = Z / (1 + slack) * math.sqrt(share * (1 - share) / of + slack / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The labelled sentences of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def measure(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one part: sentences, and for each labelled fact the share that is right with its interval."""
    found: dict[str, Any] = {"part": name, "sentences": len(rows)}
    for fact in FACTS:
        labelled = [row for row in rows if fact in row]
        if labelled:
            right = sum(row[fact] == row["answer"][fact] for row in labelled)
            low, high = wilson(right, len(labelled))
            found[fact] = {"share": right / len(labelled), "low": low, "high": high}
    return found


def flipped(pairs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """How many word-swap pairs have both domains right."""
    by_pair: dict[Any, list[bool]] = {}
    for row in pairs:
        by_pair.setdefault(row["pair"], []).append(row["domain"] == row["answer"]["domain"])
    right = sum(map(all, by_pair.values()))
    low, high = wilson(right, len(by_pair))
    return {"pairs": len(by_pair), "right": right, "low": low, "high": high}


def show(part: dict[str, Any]) -> None:
    """One line of the table."""
    cells = [
        f"{part[f]['share']:7.1%} ({part[f]['low']:.0%}-{part[f]['high']:.0%})" if f in part else f"{'':17}"
        for f in FACTS
    ]
    print(f"{part['part']:<22}{part['sentences']:>5}  " + "  ".join(f"{c:<17}" for c in cells))


def mistakes(rows: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each fact that came out wrong."""
    return [
        f"  {fact}: {row['answer'][fact]}, not {row[fact]} [{row['answer']['evidence'].get(fact, '')}] {row['text']}"
        for row in rows
        for fact in FACTS
        if fact in row and row["answer"][fact] != row[fact]
    ]


def parts(rows: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The parts that are reported, most of them overlapping."""
    held = [r for r in rows if r.get("split") == "held_out"]
    found = [
        ("learn", [r for r in rows if r.get("split") == "learn"]),
        ("held_out", held),
        ("held_out, traps", [r for r in held if r.get("trap")]),
        *((f"held_out, {code}", [r for r in held if r["language"] == code]) for code in ("zh", "en", "mixed")),
        ("word-swap pairs", pairs),
    ]
    return [(name, some) for name, some in found if some]


def main() -> int:
    """Scores, prints, and compares with the bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules-only", action="store_true", help="without the nearest examples")
    parser.add_argument("--json", action="store_true", help="the figures alone, as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="without the list of mistakes")
    parser.add_argument("--data", type=Path, help="other sentences: JSON lines with text and any of the facts")
    arguments = parser.parse_args()
    using = Tools() if arguments.rules_only else Tools(embedder=tools().embedder)
    rows = rows_of(arguments.data or DATA / "sentences.jsonl")
    if arguments.data:
        rows = [{"split": "held_out", "language": "", **row} if "language" not in row else row for row in rows]
        rows = [row | {"split": "held_out"} for row in rows]
    pairs = [] if arguments.data else rows_of(DATA / "sentence_pairs.jsonl")
    begin = time.perf_counter()
    for row, answer in zip([*rows, *pairs], understand_batch([*rows, *pairs], using=using), strict=True):
        row["answer"] = answer
    seconds = time.perf_counter() - begin
    figures = [measure(name, some) for name, some in parts(rows, pairs)]
    swaps = flipped(pairs) if pairs else None
    if arguments.json:
        print(json.dumps({"parts": figures, "pairs": swaps, "seconds": round(seconds, 2)}))
    else:
        print(f"{'':<22}{'n':>5}  " + "  ".join(f"{f:<17}" for f in FACTS))
        for figure in figures:
            show(figure)
        if swaps:
            print(
                f"pairs with both right: {swaps['right']} of {swaps['pairs']} ({swaps['low']:.0%}-{swaps['high']:.0%})"
            )
        print(f"{len(rows) + len(pairs)} sentences in {seconds:.1f} s")
        if not arguments.quiet:
            for name, some in (*parts(rows, pairs)[:2], ("word-swap pairs", pairs)):
                print(f"\nmistakes, {name}:", *(mistakes(some) or ["  none"]), sep="\n")
    held = next(f for f in figures if f["part"].startswith("held_out"))
    return int(any(held[fact]["share"] < bound - 0.005 for fact, bound in BOUNDS.items() if fact in held))


if __name__ == "__main__":
    sys.exit(main())
