"""Writes tables/datasets.yaml: the data sets that ms-swift has registered, in words that a search understands.

Run with the training environment's interpreter: `python scripts/datasets_snapshot.py`. What the registry does not say
(language, domain, goal, modality) follows from tags and names by the rules below.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "src" / "autoswift" / "tables" / "datasets.yaml"
NO_WORDS = {"🔥", "quality", "default", "common", "sft", "bench", "swift", "ai", "modelscope", "v1", "v2"}
"""Tags and words that say nothing about what is in a set."""
DOMAINS = {
    "medical": r"medical|medicine|clinical|\bmed\b|path-vqa|llava-med",
    "legal": r"\blaw\b|lawyer|legal",
    "finance": r"financ|\bfin\b",
    "code": r"\bcode|coding|python|\bsql\b|sql-|text_to_sql|nl2sql|leetcode|starcoder|the-stack|github",
    "math": r"math|gsm8k|countdown|geometry|numina",
    "creative_writing": r"poetry|novel|stories|longwriter|advertise|couplet",
    "translation": r"translate",
    "classification": r"\bcls\b|classification|fudan-news|garbage|\bjd\b",
    "extraction": r"\bner\b|extraction",
    "roleplay": r"role-play|character-dialogue|furina",
}
GOALS = {
    "preference": r"\bdpo\b|rlhf|\bkto\b|\borpo\b|pairwise|hfrl",
    "continued_pretraining": r"\bpretrain",
    "reranking": r"rerank",
    "embedding": r"similarity|\bstsb\b",
    "classification": r"\bclassification\b|\bcls\b",
    "extraction": r"\bner\b",
    "reasoning": r"\bcot\b|\br1\b|\bo1\b|\bgrpo\b|reasoning|\brlvr\b|thinking",
}
MODALITIES = {
    "video": r"\bvideo|egoschema|moviechat|cinepile",
    "audio": r"\baudio\b|\btts\b|\basr\b|speech",
    "image": r"multi-modal|\bvqa\b|vision|caption|\bocr\b|grounding|image|chartqa",
}
CHINESE = (
    r"(?:^|[^a-z])(?:zh|cn|chinese)(?:[^a-z]|$)|belle|zhihu|coig|ruozhiba|tigerbot|lawyer_llama|disc-|firefly|nlpcc"
)
CHINESE_OWNERS = r"^(?:damo|iic|damo_nlp|lvjianjin|omnidata|tongyi|codefuse|yorickhe|simpleai)/|school_math_0.25m|clue$"
OTHER = r"multilingual|multi-lingual"
SAID = {
    "poetry": "Chinese poetry, poems, 古诗 诗词",
    "novel": "web novels, stories, 小说",
    "law": "legal questions and answers, 法律",
    "medical": "medical questions and answers, 医疗",
    "financial": "finance, 金融",
    "math": "mathematics, 数学",
    "coding": "programming, 代码",
    "code": "programming, 代码",
    "sql": "text to SQL",
    "nl2sql": "text to SQL",
    "agent": "agents that call tools",
    "role-play": "role play, 角色扮演",
    "character-dialogue": "dialogues of characters, 角色对话",
    "general": "general instructions, 通用指令",
    "common": "general instructions, 通用指令",
    "multi-round": "dialogues of several turns, 多轮对话",
    "zhihu": "questions and answers of Zhihu, 知乎问答",
    "ner": "named entities, 命名实体识别",
    "self-cognition": "who the model is, 自我认知",
    "pretrain": "plain text",
    "dpo": "pairs of a better and a worse answer, 偏好",
    "long": "long texts, 长文写作",
}


def words_of(*parts: str) -> list[str]:
    """The words of names and tags that say something, each once."""
    found = [w for part in parts for w in re.split(r"[/_\s.]+|-(?=[A-Za-z])", part) if w]
    return list(dict.fromkeys(w for w in found if w.lower() not in NO_WORDS and not re.fullmatch(r"[\d.]+[kKMB]?", w)))


def first(rules: dict[str, str], text: str, otherwise: str) -> str:
    """The first rule whose pattern is in the text."""
    return next((name for name, pattern in rules.items() if re.search(pattern, text)), otherwise)


def languages(name: str, tags: list[str], subsets: Iterable[str]) -> list[str]:
    """Of the rows, as far as tags and names say it."""
    parts = {*tags, *subsets}
    text = name.lower()
    if re.search(OTHER, " ".join(tags)):
        return ["multilingual"]
    found = {code for code in ("zh", "en") if code in parts}
    if re.search(CHINESE, text) or re.search(CHINESE_OWNERS, text):
        found.add("zh")
    if re.search(r"(?:^|[^a-z])(?:en|english)(?:[^a-z]|$)", text):
        found.add("en")
    return sorted(found or {"en"})  # the rest of the registry is English


def row_of(meta: Any) -> dict[str, Any]:
    """One line of the table."""
    ms, hf = meta.ms_dataset_id or "", meta.hf_dataset_id or ""
    tags = [tag for tag in meta.tags if tag not in NO_WORDS]
    subsets = [s if isinstance(s, str) else s.subset for s in meta.subsets]
    subsets = list(dict.fromkeys(s for s in subsets if s and s != "default"))
    text = " ".join([ms, hf, *tags]).lower()
    about = [SAID[tag] for tag in meta.tags if tag in SAID]
    row = {
        "name": meta.dataset_name or (ms or hf).rpartition("/")[2],
        "ms": ms,
        "hf": hf,
        "subsets": subsets,
        "splits": [str(s) for s in meta.split] if list(meta.split) != ["train"] else [],
        "tags": tags,
        "languages": languages(f"{ms} {hf}", tags, subsets),
        "domain": first(DOMAINS, text, "general"),
        "goal": first(GOALS, text, "chat"),
        "modality": first(MODALITIES, text, "text"),
        "about": "; ".join(dict.fromkeys([" ".join(words_of((hf or ms).partition("/")[2], *tags)), *about])),
        "huge": str(meta.huge_dataset).lower() == "true",
    }
    return {key: value for key, value in row.items() if value}


def main() -> None:
    """Reads the registry and writes the table, one set a line."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with contextlib.redirect_stdout(io.StringIO()):
        from swift.dataset import DATASET_MAPPING

    import json

    rows = [row_of(meta) for meta in DATASET_MAPPING.values() if meta.ms_dataset_id or meta.hf_dataset_id]
    rows.sort(key=lambda row: (str(row["name"]).lower(), row.get("ms", ""), row.get("hf", "")))
    lines = [
        f"# The data sets registered in ms-swift {version('ms-swift')}, written by scripts/datasets_snapshot.py.",
        "# ms, hf: ids at ModelScope and Hugging Face. splits: where they are not train. languages, domain, goal,",
        "# modality and about follow from tags and names by the rules of that script.",
    ]
    lines += ["- " + json.dumps(row, ensure_ascii=False) for row in rows]  # JSON is YAML
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} data sets in {TARGET.name}")


if __name__ == "__main__":
    main()
