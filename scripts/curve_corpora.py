"""Builds the texts that `benchmarks/record_curves.py` records learning curves on, and prints the file's SHA-256.

`python scripts/curve_corpora.py OUT.json.gz [--poems FOLDER]`. FOLDER is the unpacked npm package `chinese-poetry`
(MIT; the poems are in the public domain); without it the 200 poems that the package ships are taken and the base is
pre-trained on English alone. Everything else is on any Debian machine with Python: the standard library's sources and
documentation (PSF licence) and manual pages (their own licences). Texts are read here and never shipped: the table
holds numbers only.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import json
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRAIN_CHARACTERS = 400_000
"""Of each corpus to fine-tune on; more than the longest recording reads."""
PRETRAIN_CHARACTERS = {"zh": 1_500_000, "en": 5_000_000}
"""Some 4 MB compressed together, so that the file travels; Chinese characters are about three bytes each."""
HELD_OUT = 0.15
"""Share of a corpus's documents kept for validation: a few hundred rows."""


def customer() -> list[str]:
    """Dialogues of a shop's support, Chinese; this project's own."""
    rows = json.loads((ROOT / "examples" / "customer_chat.json").read_text(encoding="utf-8"))
    texts = []
    for row in rows:
        turns = [m for m in row["messages"] if m.get("content")]
        texts.append("\n".join(f"{m['role']}: {m['content']}" for m in turns))
    return texts


def tang(folder: Path | None) -> list[str]:
    """Poems of the Tang dynasty."""
    if folder is None:
        shipped = json.loads((ROOT / "src/autoswift/testing/tang_poems.json").read_text(encoding="utf-8"))
        return [f"{p['title']}\n{p['author']}\n" + "\n".join(p["lines"]) for p in shipped["poems"]]
    return list(_poems(folder, "tang"))


def pydoc() -> list[str]:
    """The language reference as the interpreter carries it, by paragraph."""
    from pydoc_data import topics

    text: dict[str, str] = topics.topics
    return [p for topic in sorted(text) for p in re.split(r"\n{2,}", text[topic]) if len(p) > 80]


def code() -> list[str]:
    """Functions of the standard library, as written."""
    return list(_functions())


def _poems(folder: Path, dynasty: str) -> Iterator[str]:
    files = sorted((folder / "dist" / "quantangshi").glob(f"poet.{dynasty}.*.json"))
    for file in files:
        for poem in json.loads(file.read_text(encoding="utf-8")):
            yield f"{poem['title']}\n{poem['author']}\n" + "\n".join(poem["paragraphs"])


def _functions() -> Iterator[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.glob("*.py")):
        source = file.read_text(encoding="utf-8", errors="replace")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                text = ast.get_source_segment(source, node) or ""
                if 200 < len(text) < 4000:
                    yield text


def _manual() -> Iterator[str]:
    """Manual pages without their markup."""
    for section in ("1", "5", "7", "8"):
        for file in sorted(Path("/usr/share/man", f"man{section}").glob("*.gz")):
            if file.stat().st_size < 2000:
                continue
            try:
                raw = gzip.decompress(file.read_bytes()).decode("utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            lines = (re.sub(r"\\f.|\\[&,/]|\\\*\S", "", x) for x in raw.splitlines() if not x.startswith(("'", '.\\"')))
            text = "\n".join(re.sub(r"^\.\w+\s*", "", x).replace("\\-", "-") for x in lines)
            yield re.sub(r"\n{3,}", "\n\n", text)[:6000]


def _take(texts: list[str], characters: int, seed: int) -> list[str]:
    """Texts in a seeded order, once each, until there are enough."""
    texts = sorted(set(texts))
    random.Random(seed).shuffle(texts)  # noqa: S311 - an order, no secret
    taken, length = [], 0
    for text in texts:
        if length >= characters:
            break
        taken.append(text)
        length += len(text)
    return taken


def build(poems: Path | None) -> dict[str, Any]:
    """`{"pretrain": {language: [text]}, "corpora": {name: {language, origin, licence, train, validation}}}`."""
    psf, own, old = "PSF-2.0", "Apache-2.0", "public domain"
    sources: dict[str, tuple[list[str], str, str, str]] = {
        "customer": (customer(), "zh", "examples/customer_chat.json of this project", own),
        "tang": (tang(poems), "zh", "Tang poems: chinese-poetry 2.0.1" if poems else "testing/tang_poems.json", old),
        "pydoc": (pydoc(), "en", "pydoc_data.topics of the standard library", psf),
        "code": (code(), "en", "functions of the standard library", psf),
    }
    corpora: dict[str, Any] = {}
    for name, (texts, language, origin, licence) in sources.items():
        taken = _take(texts, TRAIN_CHARACTERS, 1)
        held = max(1, int(len(taken) * HELD_OUT))
        corpora[name] = {
            "language": language,
            "origin": origin,
            "licence": licence,
            "validation": taken[:held],
            "train": taken[held:],
        }
    pretrain = {"en": _take(list(_manual()), PRETRAIN_CHARACTERS["en"], 2)}
    if poems is not None:  # the Song dynasty's: near to the corpus `tang`, and none of its poems
        pretrain["zh"] = _take(list(_poems(poems, "song")), PRETRAIN_CHARACTERS["zh"], 2)
    return {"version": 1, "pretrain": pretrain, "corpora": corpora}


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--poems", type=Path, default=None, help="the unpacked npm package chinese-poetry")
    arguments = parser.parse_args()
    made = build(arguments.poems)
    raw = json.dumps(made, ensure_ascii=False, sort_keys=True).encode("utf-8")
    arguments.out.write_bytes(gzip.compress(raw, 9, mtime=0))
    for name, one in made["corpora"].items():
        characters = sum(map(len, one["train"]))
        print(f"{name:10} train {characters:>9,} characters, validation {len(one['validation'])} texts")
    for language, texts in made["pretrain"].items():
        print(f"pretrain {language} {sum(map(len, texts)):>15,} characters")
    size = arguments.out.stat().st_size / 2**20
    print(f"{arguments.out}: {size:.2f} MiB, sha256 {hashlib.sha256(arguments.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
