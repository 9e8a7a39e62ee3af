"""What the fake hub offers: a poem data set among others, and the poems that the rule-based teacher writes with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from autoswift.testing.hub import FakeDataset


@cache
def poems() -> tuple[dict[str, Any], ...]:
    """Tang poems of four lines, in the public domain: title, author, lines."""
    path = Path(__file__).with_name("tang_poems.json")
    return tuple(json.loads(path.read_text(encoding="utf-8"))["poems"])


def jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def poem_rows() -> list[dict[str, str]]:
    """Requests for a poem, with the poem."""
    frames = ("以《{title}》为题，写一首{kind}。", "写一首题为《{title}》的{kind}。", "请用{kind}的形式写《{title}》。")
    rows = []
    for number, poem in enumerate(poems()):
        form = "五言绝句" if len(poem["lines"][0]) == 6 else "七言绝句"
        asked = frames[number % len(frames)].format(title=poem["title"], kind=form)
        rows.append({"instruction": asked, "output": "\n".join(poem["lines"])})
    return rows


def shelf() -> list[FakeDataset]:
    """A poem data set among others: of another topic, language, licence or goal, gated, of scripts, of pictures."""
    answers = [{"instruction": f"Question {n}?", "output": f"Answer number {n}."} for n in range(150)]
    pairs = [{"prompt": f"写诗 {n}", "chosen": f"春风第{n}度", "rejected": "不会"} for n in range(150)]
    return [
        FakeDataset(
            id="classics/tang-poetry-instructions",
            title="Tang poetry, with instructions",
            description="唐诗绝句创作指令数据：按题目写五言、七言绝句。Four-line Chinese poems of the Tang dynasty.",
            files={
                "data/train.jsonl": jsonl(poem_rows()),
                "README.md": b"# Tang poetry\n" * 80,
                "preview.txt": b"",
                "build.py": b"raise SystemExit('scripts are never run')\n" * 30,
            },
            licence="cc0-1.0",
            languages=["zh"],
            tags=["poetry", "task_categories:text-generation", "size_categories:n<1K"],
            rows=len(poems()),
            downloads=900,
        ),
        FakeDataset(
            id="verse/english-poems",
            title="English poems",
            description="Poems in English with prompts.",
            files={"train.jsonl": jsonl(answers)},
            licence="cc-by-nc-4.0",
            languages=["en"],
            tags=["poetry"],
            downloads=90_000,
        ),
        FakeDataset(
            id="locked/chinese-poetry-plus",
            title="中文诗词大全",
            description="古诗词，需申请。",
            files={"train.jsonl": jsonl(poem_rows())},
            licence="apache-2.0",
            languages=["zh"],
            tags=["poetry"],
            gated=True,
            downloads=50_000,
        ),
        FakeDataset(
            id="oldstyle/poetry-loader",
            title="Poetry by a script",
            description="古诗词",
            files={"poetry.py": b"import os\n" * 200, "weights.pkl": b"\x80\x04." * 500},
            licence="mit",
            languages=["zh"],
            tags=["poetry"],
            downloads=70_000,
        ),
        FakeDataset(
            id="pairs/poetry-dpo",
            title="Poetry preferences",
            description="Pairs of a better and a worse poem, 诗词偏好数据",
            files={"train.jsonl": jsonl(pairs)},
            licence="apache-2.0",
            languages=["zh"],
            tags=["dpo", "poetry"],
            downloads=60_000,
        ),
        FakeDataset(
            id="pictures/poetry-paintings",
            title="Poetry and paintings",
            description="Paintings with poems, 诗配画",
            files={"train.jsonl": jsonl(answers)},
            licence="apache-2.0",
            languages=["zh"],
            tags=["poetry", "image-to-text"],
            downloads=80_000,
        ),
        FakeDataset(
            id="health/medical-dialogues",
            title="Medical dialogues",
            description="Questions of patients and answers of doctors, 医疗问答",
            files={"train.jsonl": jsonl(answers)},
            licence="apache-2.0",
            languages=["zh", "en"],
            tags=["medical"],
            downloads=400_000,
        ),
        FakeDataset(
            id="general/alpaca-mini",
            title="Alpaca mini",
            description="General instructions.",
            files={"train.json": json.dumps(answers).encode()},
            licence="cc-by-nc-4.0",
            languages=["en"],
            tags=["instruction-finetuning"],
            downloads=1_000_000,
        ),
    ]
