"""Hardware and constraints that a sentence names, by patterns."""

from __future__ import annotations

import re

from autoswift.understand.lexicon import clause_of, group, near, negated
from autoswift.tables import table

_COUNT = r"(?:(?:单|双|两|二|三|四|八|\d{1,3}|one|two|four|eight|single|dual)\s?(?:卡|张|块|台|[x×*]|gpu|card)?\s?(?:的)?\s?)?"
_TIMES = r"(?:\s?[x×*]\s?\d{1,3}(?![\dg]))?"
_GPU = (
    r"(?:nvidia\s?)?(?:geforce\s?)?(?:"
    r"(?:rtx|gtx)\s?(?:pro\s?)?\d{3,4}(?:\s?(?:ada|ti|super|d))*"
    r"|(?:5090|5080|5070|4090|4080|4070|4060|3090|3080|3070|3060|2080|1080|1660)(?:\s?(?:ti|super|d)\b)*"
    r"|(?:tesla\s|quadro\s)?(?:gb200|b200|b100|h200|h100|h800|h20|a800|a100|a6000|a5000|a4000|a40|a30|a10g?|l40s?|l20|l4|v100|p100|p40|t4)"
    r"(?:[\s-]?(?:sxm|pcie|nvl))?(?:[\s-]\d{2,3}\s?gb?)?"
    r"|titan\s?(?:rtx|xp|v)|mi300x?|mi250x?|mi210"
    r")"
)
_EDGE_GPU = rf"(?<![a-z0-9.]){_COUNT}{_GPU}(?![a-z0-9]){_TIMES}(?:\s?(?:显卡|gpus?|cards?)(?![a-z]))?"
_MEMORY = (
    r"(?<![\d.])\d{1,4}\s?(?:gib|gb|g)(?![a-z0-9])\s?(?:的)?(?:显存|内存|vram|gpu memory|of vram|of gpu memory|ram|of ram|memory|"
    r"unified memory|显卡|卡|gpu|card)?"
)
_OTHER = (
    r"昇腾\s?(?:npu\s?)?(?:910\s?[a-z]?\d?|310\s?p?)?|(?:huawei\s)?ascend(?:\s?(?:910\s?[a-z]?\d?|310\s?p?|npu))?(?![a-z])|华为\s?npu|atlas\s?(?:800|900|300)\w*"
    r"|寒武纪(?:\s?mlu\d*)?|cambricon|mlu\d{3}|海光(?:\s?dcu)?|摩尔线程|tpu(?:\s?v\d\w?)?(?![a-z])"
    r"|apple\s?silicon|(?:apple\s?|苹果\s?)m[1-5](?:\s?(?:pro|max|ultra))?(?![a-z0-9])(?:\s?芯片)?"
    r"|(?:macbook|mac\s?studio|mac\s?mini|imac|mac)(?:\s?(?:pro|air))?(?:\s?m[1-5](?:\s?(?:pro|max|ultra))?)?(?![a-z0-9])"
    r"|(?<![a-z0-9])m[1-5]\s?(?:pro|max|ultra|芯片|chip|mac(?:book)?)(?![a-z0-9])"
    r"|树莓派\s?\d?[a-z]?(?![a-z])|raspberry\s?pi(?:\s?\d)?(?![\d])|jetson(?:\s?(?:nano|orin|xavier|agx))*|orange\s?pi(?:\s?\d)?|香橙派|rk3\d{3}|瑞芯微"
)
_NO_GPU = (
    r"没有(?:独立)?(?:显卡|gpu)|没(?:显卡|gpu)|无(?:显卡|gpu)|只有\s?cpu|仅\s?cpu|纯\s?cpu|cpu[\s-]only|only (?:a |have a )?cpu|no gpus?|without (?:a |any )?gpus?"
    r"|don'?t have a gpu|not have a gpu|cpu\s?(?:上|训练|服务器)"
)
_CARDS = r"(?:单|双|两|四|八|\d{1,3})\s?(?:卡|张卡|块卡|张显卡|块显卡|块gpu)(?!片)|(?:one|single|two|four|eight|dual|\d{1,3})[\s-]gpus?(?![a-z])"
HARDWARE = re.compile("|".join((_NO_GPU, _EDGE_GPU, _OTHER, _MEMORY, _CARDS)), re.IGNORECASE)
_DATA_AFTER = re.compile(r"\s?(?:的)?\s?(?:大小的)?(?:数据|语料|文本|文件|日志|硬盘|磁盘|data|dataset|corpus|of (?:text|data|logs|chat)|files?|text|disk|ssd|logs|模型|model)", re.IGNORECASE)

_NUMBERS = {"单": 1, "one": 1, "single": 1, "双": 2, "两": 2, "二": 2, "two": 2, "dual": 2, "三": 3, "四": 4, "four": 4, "八": 8, "eight": 8}


def hardware(text: str) -> tuple[str, ...]:
    """The machines that a sentence names, in its own words: ("单卡3090", "24GB").

    Args:
        text: half-width, single-spaced, in its own capitals.
    """
    found: list[str] = []
    for m in HARDWARE.finditer(text):
        words = m.group().strip()
        if re.fullmatch(_MEMORY, words, re.IGNORECASE) and _DATA_AFTER.match(text, m.end()):
            continue
        if not re.fullmatch(_NO_GPU, words, re.IGNORECASE) and negated(text.lower(), m.start()):
            continue
        if words not in found:
            found.append(words)
    return tuple(found)


def device_count(words: tuple[str, ...]) -> int | None:
    """How many training devices hardware words speak of, or None when they do not say."""
    for one in map(str.lower, words):
        m = re.match(r"(单|双|两|二|三|四|八|one|single|two|dual|four|eight|\d{1,3})\s?-?(?:卡|张|块|台|[x×*]|gpu|card)", one)
        after = re.search(r"[x×*]\s?(\d{1,3})$", one)
        count = after.group(1) if after else m.group(1) if m else None
        if count:
            return _NUMBERS.get(count) or int(count)
    return None


_LICENCES = {
    "apache-2.0": r"apache[\s-]?(?:2(?:\.0)?)?(?:\s?(?:协议|许可|licen[cs]ed?))?",
    "mit": r"mit\s?(?:协议|许可证?|licen[cs]ed?)",
    "commercial": r"可商用|商业使用|商用|商业授权|commercial(?:ly)?(?:\s(?:use|usable|licen[cs]e))?",
    "open": r"开源(?:模型|协议|许可)?|open[\s-]source|open[\s-]weights?|permissive(?: licen[cs]e)?",
}
_PRIVACY = {
    "offline": r"离线|断网|不联网|没有网络|无网|内网|offline|air[\s-]?gapped|no internet|without internet|without a network",
    "on_premises": r"本地部署|私有化|私有部署|数据不出|不出域|不能出|不能外传|不上云|不能上云|保密|隐私|脱敏|数据安全|on[\s-]prem(?:ises?)?|self[\s-]hosted|private(?:ly)?|privacy|"
    r"confidential|hipaa|gdpr|data (?:must|can ?not|cannot|may not|should) (?:stay|leave|not leave)[\w\s]*|never leaves?[\w\s]*|no cloud|not (?:in|on|to) the cloud",
}
_LATENCY = (
    r"(?:\d+(?:\.\d+)?\s?(?:毫秒|秒|ms|milliseconds?|seconds?|s(?![a-z]))\s?(?:以内|之内|内)?)"
)
_LATENCY_SAID = re.compile(
    rf"(?:(?:延迟|响应|首字|返回|回复|latency|respond|response|reply|replies|answers?|ttft|within|under|in less than|小于|低于|不超过|少于)[^,.;，。；]{{0,16}}?)({_LATENCY})"
    rf"|({_LATENCY})(?:响应|返回|回复|出结果)"
)
_LATENCY_LOW = re.compile(r"低延迟|实时|快速响应|秒回|响应要快|响应快|低时延|low[\s-]latency|real[\s-]?time|fast responses?|respond quickly|instant(?:ly)?|as fast as possible")
_SIZE = re.compile(
    r"(?:不超过|小于|低于|最多|至多|under|below|at most|less than|smaller than|up to|max(?:imum)?)\s?(\d+(?:\.\d+)?)\s?b(?![a-z])|(\d+(?:\.\d+)?)\s?b\s?(?:以下|以内|or (?:less|smaller))"
)


def constraints(text: str, machines: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Licence, privacy, latency, size, device count and answer language that a normalised sentence demands.

    Returns:
        The constraints, and for each the words that it rests on.
    """
    demands: dict[str, str] = {}
    words: dict[str, str] = {}

    def put(name: str, value: str, because: str) -> None:
        demands.setdefault(name, value)
        words.setdefault(name, because.strip())

    for name, patterns in (("licence", _LICENCES), ("privacy", _PRIVACY)):
        for value, pattern in patterns.items():
            m = re.search(rf"(?<![a-z])(?:{pattern})(?![a-z])", text)
            if m and not (name == "licence" and negated(text, m.start())):
                put(name, value, m.group())
    if m := _LATENCY_SAID.search(text):
        put("latency", (m.group(1) or m.group(2)).strip(), m.group())
    elif m := _LATENCY_LOW.search(text):
        put("latency", "low", m.group())
    if m := _SIZE.search(text):
        put("parameters", f"<={m.group(1) or m.group(2)}B", m.group())
    count = device_count(machines)
    if count:
        put("devices", str(count), ", ".join(machines))
    for one in map(str.lower, machines):
        if (m := re.search(r"(?<!\d)(\d{1,4})\s?(?:gib|gb|g)(?![a-z])", one)) and not re.search(r"内存|ram(?!\w)|of ram|unified", one.replace("vram", "")):
            put("memory_gb", m.group(1), one)
    for language in table("understand")["answer_language"]:
        if (m := group("answer_language", language).search(text)) and not negated(text, m.start()):
            put("answer_language", language, m.group())
    return demands, words


def runs_on(text: str, start: int, end: int) -> bool:
    """Whether a place in a normalised sentence is where the model shall be served, not where it is trained.

    The nearer of the two kinds of words decides: "train on AWS, deploy to a Raspberry Pi".
    """
    if not near(text, start, end, group("serving")):
        return False
    serve, train = (gap(text, start, end, group(name)) for name in ("serving", "training"))
    return train is None or (serve is not None and serve <= train)


def gap(text: str, start: int, end: int, words: re.Pattern[str]) -> int | None:
    """Characters between a span and the nearest of the words in its clause, or None."""
    begin, stop = clause_of(text, start)
    gaps = [
        start - m.end() if m.end() <= start else m.start() - end
        for m in words.finditer(text, begin, stop)
        if m.end() <= start or m.start() >= end
    ]
    return min(gaps, default=None)

