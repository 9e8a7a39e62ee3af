"""What a model's name and family say about it: size, kind, shape, licence, release. Pure; used to make the snapshot.

Every fact is from a rule of tables/families.yaml or from the name itself; what neither says stays out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from autoswift.tables import table

SHAPE = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary", "head_dim", "tied")
QUANTIZED = (
    ("gptq", r"gptq|-int[48]$|-int[48]-"),
    ("awq", r"awq"),
    ("fp8", r"fp8"),
    ("fp4", r"nvfp4"),
    ("bnb", r"bnb|4bits|8bits|int8$"),
    ("aqlm", r"aqlm"),
)
"""Names of already quantized weights: they serve, but what is trained is the original."""

_NUMBER = r"(\d+(?:[._]\d+)?)"
_EXPERTS = re.compile(r"(?<![a-z0-9.])(\d+)x(\d+(?:\.\d+)?)b(?![a-z])|(?<![a-z0-9.])(\d+)bx(\d+)(?![a-z])", re.I)
_TOTAL = re.compile(rf"(?<![a-z0-9.]){_NUMBER}([bt])(?![a-z])", re.I)
_MILLIONS = re.compile(rf"(?<![a-z0-9.]){_NUMBER}m(?![a-z])", re.I)
_ACTIVE = re.compile(rf"(?<![a-z0-9])a{_NUMBER}b(?![a-z])", re.I)


def parsed_size(name: str) -> tuple[int, int]:
    """Total and active parameters as a model's name states them; 0 where it does not.

    Args:
        name: a hub id or its last part, as `Qwen/Qwen3-30B-A3B`, `internlm2_5-1_8b-chat`, `gemma-3-270m-it`.
    """
    last = name.rpartition("/")[2]
    active = _ACTIVE.search(last)
    used = _billions(active.group(1)) if active else 0
    total = _TOTAL.search(_ACTIVE.sub("", last))
    if _EXPERTS.search(last):
        return 0, used  # 8x7B shares its attention: the total is less than the product, and only the card has it
    if total:
        scale = 1e12 if total.group(2) in "tT" else 1e9
        return round(float(total.group(1).replace("_", ".")) * scale), used
    millions = _MILLIONS.search(last)
    # "1M" after a size is a context length; without a size, three digits are a model's (270m, 560M).
    if millions and len(millions.group(1)) >= 2:
        return round(float(millions.group(1).replace("_", ".")) * 1e6), used
    return 0, used


def size_key(name: str) -> str:
    """The size as tables/families.yaml writes it: `7B`, `0.5B`, `270M`, `30B-A3B`."""
    total, active = parsed_size(name)
    if not total:
        return ""
    return _spelled(total) + (f"-A{_spelled(active)}" if active else "")


def quantization(name: str) -> str:
    """How the weights under that name are already quantized, or an empty text."""
    last = name.rpartition("/")[2].lower()
    return next((word for word, pattern in QUANTIZED if re.search(pattern, last)), "")


def family_facts(*ids: str) -> dict[str, Any]:
    """What the rules say of a model; for each field the first rule that has it counts.

    Args:
        ids: the model's ids on the hubs; empty ones are passed over.
    """
    facts: dict[str, Any] = {}
    for pattern, rule in _rules():
        if any(pattern.search(one) for one in ids if one):
            for field, value in rule.items():
                facts.setdefault(field, value)
    return facts


def shape_facts(family: str, size: str) -> dict[str, Any]:
    """Layers, hidden and so on of a family's model of that size, or nothing."""
    row = table("families")["shapes"].get(family, {}).get(size)
    return dict(zip(SHAPE, row, strict=True)) if row else {}


def counted(shape: Mapping[str, Any], family: str = "") -> int:
    """The weights that a decoder's shape implies: embedding, attention, gated MLP, norms."""
    extras = table("families")["shape_extras"].get(family, {})
    hidden, q, kv = shape["hidden"], shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    layer = 2 * hidden * q + 2 * hidden * kv + 3 * hidden * shape["intermediate"] + extras.get("norms", 2) * hidden
    layer += (q + 2 * kv) if extras.get("bias") else 0
    layer += 2 * shape["head_dim"] if extras.get("qk_norm") else 0
    return int(shape["vocabulary"] * hidden * (1 if shape["tied"] else 2) + shape["layers"] * layer + hidden)


def kind_of(name: str, model_type: str, tags: Iterable[str], task: str, reward: bool) -> str:
    """What a model is made for, by its name and type.

    Returns:
        base chat reasoning embedding reranking; or what no task here is made with: reward guard decision encoder, media
        (speech or pictures out, or transcription alone), ocr (reads documents alone), agent (clicks on screens).
    """
    last, tags = name.rpartition("/")[2].lower(), set(tags)
    for word, hit in (
        ("reranking", task == "reranker" or "rerank" in last),
        ("reward", reward or task == "prm" or "reward" in last),
        ("guard", bool(re.search(r"guard", last))),
        ("decision", task == "decision"),
        ("media", bool(re.search(r"(^|-)(asr|tts|captioner)(-|$)", last)) or "t2i" in tags),
        ("embedding", "embedding" in last or model_type in _EMBEDDERS or bool(re.match(r"(gte|gme)-", last))),
        ("encoder", "bert" in tags or task == "embedding"),
        ("ocr", bool(re.search(r"ocr|mineru|docowl|doc_owl", last))),
        ("agent", bool(re.search(r"^ui-tars|^autoglm|^cogagent|modelscope-agent", last))),
    ):
        if hit:
            return word
    return "base" if _is_base(last) else "reasoning" if _reasons(last) else "chat"


def modalities_of(model_type: str, tags: Iterable[str], multimodal: bool) -> tuple[str, ...]:
    """What the model takes beyond text."""
    if not multimodal:
        return ()
    tags = set(tags)
    found = [word for tag, word in (("vision", "image"), ("video", "video"), ("audio", "audio")) if tag in tags]
    if not found or (found == ["video"]):
        found = ["image", *found]
    return tuple(found)


def oldest_transformers(requires: Iterable[str]) -> str:
    """Release month of the oldest transformers that a model asks for, or an empty text."""
    months: dict[str, str] = table("families")["transformers"]
    best = ""
    for one in requires:
        m = re.match(r"transformers[>=]=?(\d+)\.(\d+)", one)
        if m:
            major, minor = int(m.group(1)), int(m.group(2))
            best = max(best, months.get(f"{major}.{minor}", "") or (months["5.0"] if major >= 5 else ""))
    return best


_EMBEDDERS = ("qwen3_emb", "gemma_emb", "qwen2_gte", "modern_bert_gte", "qwen2_gme", "qwen3_vl_emb", "qwen3_5_emb")
_BARE_IS_BASE = re.compile(
    r"^(qwen(1\.5|2|2\.5)?-(coder-|math-|vl-|audio-|moe-)?[\d._]+b(-a[\d.]+b)?$|qwen-(vl|audio)$|qwen2-audio-7b$|codeqwen1\.5-7b$"
    r"|qwen1\.5-moe-a2\.7b$|qwen2-57b-a14b$|(meta-)?llama-[234][\d.]*-\d+b(-hf|-vision)?$|llama-4-[a-z]+-17b-\d+e$|gemma-2b$|gemma-7b$|gemma-2-\d+b$"
    r"|gemma-3-270m$|gemma-3n-e\db$|gemma-4-(e\d|12|31|26)b(-a4b)?$|mistral-7b-v|mixtral-8x\d+b-v0\.1$|mixtral-8x22b-v|yi-[\d.]*-?\d+b(-200k)?$"
    r"|yi-coder-[\d.]+b$|internlm2?(_5)?-\d[\d_]*b$|internlm-\d+b$|baichuan-7b$|deepseek-v2(-lite)?$|glm-4-9b$|xverse-(\d+b)(-2|-256k)?$|xverse-moe-a4\.2b$"
    r"|chinese-llama-2|llama-3-chinese-8b$|phi-2$|olmoe-1b-7b-\d+$|moonlight-16b-a3b$|atom-7b$|ling-(lite|plus)-base$|skywork-13b-base|dots\.llm1\.base$"
    r"|tongyi-finance-14b$|polylm|yuan2|mamba-)"
)


def _is_base(last: str) -> bool:
    if re.search(r"(^|[-_.])(base|pretrain(ed)?)([-_.]|$)", last) or re.search(r"gemma[^/]*-pt(-\d+)?$", last):
        return True
    return bool(_BARE_IS_BASE.search(last))


def _reasons(last: str) -> bool:
    return bool(
        re.search(
            r"thinking|reasoning|qwq|qvq|(^|-)r1(-|$)|-o1($|-)|-z1-|prover|speciale|-math(-v2|-.*instruct)|deepseek-r1|-rl(-|$)"
            r"|^ring-|numinamath|qwenlong|smallthinker|reason-|math-7b-rl|internlm2-math-(7b|20b)$|deepresearch",
            last,
        )
    )


@cache
def _rules() -> tuple[tuple[re.Pattern[str], dict[str, Any]], ...]:
    rows = table("families")["rules"]
    return tuple(
        (re.compile(row["match"], re.I), {key: value for key, value in row.items() if key != "match"}) for row in rows
    )


def _billions(text: str) -> int:
    return round(float(text.replace("_", ".")) * 1e9)


def _spelled(count: int) -> str:
    return f"{count / 1e6:g}M" if count < 4e8 else f"{count / 1e9:g}B"
