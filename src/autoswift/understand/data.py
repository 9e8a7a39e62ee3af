"""A data file from its bytes to its profile and its three splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoswift.domain.profile import DataProfile, LengthStats, Problem
from autoswift.errors import DataError
from autoswift.understand import flags, lexicon, near, shapes
from autoswift.understand.clean import Cleaned, clean, prompt_key, row_text
from autoswift.understand.language import cjk_share, detect
from autoswift.understand.problems import Findings
from autoswift.understand.reader import RawData, read
from autoswift.understand.sentence import domain_scores, sentence_report
from autoswift.understand.shapes import Shape
from autoswift.understand.split import NAMES, split

__all__ = ["as_report", "inspect", "prepare", "sentence_report"]

Row = dict[str, Any]
SAMPLE = 200
"""Rows that language and domain are judged by, evenly spaced: a share is then known to 7 points."""
DOMAIN_SHARE = 0.3
"""Of the sampled rows that speak of one domain before the file is said to: a third, as in a mixed chat log."""
SAME_PROMPT = 0.05
"""Rows with one and the same prompt stay together unless they are more than this share: then it is a fixed
instruction, and keeping it together would leave nothing to divide."""
LEAK_SHARE = 0.8
"""Of rows that say their own label, from which on the task is reading, not judging."""
SHOWN = 500
"""Characters of the first row that a report shows."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows in their common form, before cleaning.

    Attributes:
        rows: as `shapes.rewrite` makes them. lines: the line each begins on. lost: records left out, by reason.
    """

    shape: Shape
    rows: list[Row]
    lines: list[int]
    lost: dict[str, int]


def inspect(
    path: Path, columns: Mapping[str, str], seed: int, *, language: str = "en"
) -> tuple[DataProfile, dict[str, list[dict[str, Any]]]]:
    """Reads, cleans, profiles and divides a data file; the same file and seed give the same answer.

    Args:
        path: of the file.
        columns: role to column name, where the user says it.
        seed: of the division.
        language: of the problems' texts, zh or en.

    Returns:
        The profile, and the rows of "train", "validation" and "test", each {"messages": [...]} with
        rejected_response, label, text, images… as its task has them.

    Raises:
        DataError: with each finding by file and line, when the file cannot be used.
    """
    raw = read(Path(path), columns, language=language)
    findings = Findings(str(path), language, list(raw.problems))
    ready = prepare(raw, findings)
    cleaned = clean(ready.rows, ready.shape.task)
    _check_cleaned(ready, cleaned, findings)
    _report_cleaned(raw, ready, cleaned, findings)
    groups = near.groups([row_text(r) for r in cleaned.kept])
    together = len(groups) - len(set(groups))
    groups = near.join(groups, [prompt_key(r) for r in cleaned.kept], max(2, int(len(groups) * SAME_PROMPT)))
    try:
        parts, notes = split(cleaned.kept, groups, seed, language=language, file=str(path))
    except DataError as exc:
        raise DataError(exc.what, exc.why, exc.fix, (*findings.problems, *exc.problems)) from exc
    profile = _profile(raw, ready, cleaned, {name: len(parts[name]) for name in NAMES})
    flagged = dict(profile.flagged) | ({"near_duplicate": together} if together else {})
    profile = replace(profile, flagged=flagged, problems=(*findings.problems, *notes))
    return profile, {name: [cleaned.kept[i] for i in parts[name]] for name in NAMES}


def prepare(raw: RawData, findings: Findings) -> Prepared:
    """The records in their common form; those of another shape than most are left out and counted.

    Raises:
        DataError: no_text_columns, mixed_columns.
    """
    records = [_record(r) for r in raw.rows]
    known = [_shape(r, raw.columns, {}) for r in records[:SAMPLE]]
    main = shapes.majority(known)
    if main is None or sum(s is not None for s in known) * 2 < len(known):
        main = shapes.guess([r for r in records if isinstance(r, dict)]) if main is None else main
    if main is None:
        raise findings.error("no_text_columns", where={"line": raw.lines[0]}, columns=_names(records))
    if main.name == "guessed":
        findings.add("columns_guessed", "warn", columns=", ".join(f"{k}={v}" for k, v in main.columns.items()))
    if main.name == "turn_per_row":
        joined = shapes.join_turns([r for r in records if isinstance(r, dict)], main)
        return Prepared(main, [row for _, row in joined], [raw.lines[i] for i, _ in joined], dict(raw.lost))
    ready = Prepared(main, [], [], dict(raw.lost))
    cache: dict[Any, Shape | None] = {}
    for record, line in zip(records, raw.lines, strict=True):
        shape = main if main.name == "guessed" else _shape(record, raw.columns, cache)
        row = None
        if isinstance(record, dict) and shape is not None and shape.task == main.task:
            row = shapes.rewrite(record, shape)
        if row is None:
            empty = isinstance(record, dict) and not any(v not in (None, "", []) for v in record.values())
            reason = "empty_turns" if empty else "mixed_columns"
            ready.lost[reason] = ready.lost.get(reason, 0) + 1
            if not empty:
                findings.add("other_shape", "warn", where={"line": line}, shape=main.name)
        else:
            ready.rows.append(row)
            ready.lines.append(line)
    lost = ready.lost.get("mixed_columns", 0)
    if lost > len(ready.rows):
        raise findings.error("mixed_columns", where={"line": raw.lines[0]}, bad=lost, total=lost + len(ready.rows))
    return ready


def _record(record: Any) -> Any:
    """A bare dialogue or text as an object."""
    if isinstance(record, list):
        return {"messages": record}
    return {"text": record} if isinstance(record, str) else record


def _shape(record: Any, columns: Mapping[str, str], cache: dict[Any, Shape | None]) -> Shape | None:
    """The shape of a record, remembered for its columns and the types in them."""
    if not isinstance(record, dict):
        return None
    key = tuple((k, type(v)) for k, v in record.items())
    if key not in cache:
        shape = shapes.shape_of(record, columns)
        if shape is None or shape.task == "pretrain" or isinstance(record.get(shape.columns.get("messages", "")), str):
            return shape  # what a string holds differs from record to record
        cache[key] = shape
    return cache[key]


def _names(records: Sequence[Any]) -> str:
    """The column names of the first records, for a message."""
    names = dict.fromkeys(str(k) for r in records[:SAMPLE] if isinstance(r, dict) for k in r)
    return ", ".join(list(names)[:20]) or "-"


def _check_cleaned(ready: Prepared, cleaned: Cleaned, findings: Findings) -> None:
    """Whether anything is left.

    Raises:
        DataError: only_user_turns, all_empty_answers, all_duplicates, no_rows.
    """
    given, removed = len(ready.rows), cleaned.removed
    if len(cleaned.kept) == 1 and removed.get("duplicate", 0) == given - 1 and given > 1:
        raise findings.error("all_duplicates", where={"line": ready.lines[0]}, rows=given)
    if cleaned.kept:
        return
    line = {"line": ready.lines[0]} if ready.lines else None
    if removed.get("empty_answers", 0) * 2 > given:
        raise findings.error("all_empty_answers", where=line, rows=given)
    if removed.get("only_user_turns", 0) * 2 > given:
        raise findings.error("only_user_turns", where=line, rows=given)
    raise findings.error(
        "nothing_left", where=line, rows=given, reasons=", ".join(f"{k}: {v}" for k, v in removed.items())
    )


def _report_cleaned(raw: RawData, ready: Prepared, cleaned: Cleaned, findings: Findings) -> None:
    """Problems for what was removed, changed and marked."""
    for reason, count in cleaned.removed.items():
        place = cleaned.first_removed[reason]
        where = {"line": ready.lines[place], "row": place + 1}
        findings.add(f"removed_{reason}", "warn", where=where, count=count)
    for kind, count in cleaned.tidied.items():
        findings.add(f"tidied_{kind}", "flag", count=count)
    total = len(cleaned.kept)
    personal = {k.removeprefix("pii_"): n for k, n in cleaned.flagged.items() if k.startswith("pii_")}
    if personal:
        findings.add(
            "pii",
            "flag",
            count=cleaned.flagged["pii"],
            kinds=", ".join(f"{k}: {n}" for k, n in sorted(personal.items())),
        )
    for kind in ("prompt_injection", "too_long_rows"):
        if kind in cleaned.flagged:
            findings.add(kind, "flag", count=cleaned.flagged[kind])
    if leaks := cleaned.flagged.get("label_leak"):
        findings.add("label_leak", "warn" if leaks > LEAK_SHARE * total else "flag", count=leaks, total=total)
    if raw.format in ("csv", "tsv"):
        formulas = sum(any(flags.FORMULA.match(t["content"]) for t in r["messages"]) for r in cleaned.kept)
        if formulas:
            cleaned.flagged["csv_formula_injection"] = formulas
            findings.add("csv_formula_injection", "flag", count=formulas)
    away = sum(any(_leaves(p) for kind in shapes.MEDIA_COLUMNS for p in r.get(kind, [])) for r in cleaned.kept)
    if away:
        cleaned.flagged["path_traversal"] = away
        findings.add("path_traversal", "warn", count=away)


def _leaves(path: str) -> bool:
    """Whether the path of a picture leads out of the data's folder."""
    return path.startswith(("/", "~")) or ".." in path.replace("\\", "/").split("/")


def _profile(raw: RawData, ready: Prepared, cleaned: Cleaned, splits: dict[str, int]) -> DataProfile:
    kept = cleaned.kept
    sample = [kept[i * len(kept) // min(SAMPLE, len(kept))] for i in range(min(SAMPLE, len(kept)))]
    texts = [row_text(r) for r in kept]
    lost = Counter(ready.lost) + Counter(cleaned.removed)
    answers = [len(t["content"]) for r in kept for t in r["messages"] if t["role"] == "assistant"]
    turns = [sum(t["role"] != "system" for t in r["messages"]) for r in kept]
    seen = "".join(texts)
    return DataProfile(
        path=raw.path,
        sha256=raw.sha256,
        format=f"{raw.format}/{ready.shape.name}",
        task=ready.shape.task,
        language=detect("\n".join(row_text(r)[:200] for r in sample)),
        domain=domain_of([row_text(r) for r in sample], ready.shape.task),
        modality=_modality(kept),
        rows=len(ready.rows) + sum(ready.lost.values()),
        conversations=len(kept),
        turns_mean=round(sum(turns) / len(turns), 3),
        splits=splits,
        characters=stats([sum(len(t["content"]) for t in r["messages"]) for r in kept]),
        answer_characters=stats(answers or [0]),
        cjk_share=round(cjk_share(seen), 4),
        first=_first(kept[0], ready.shape.task),
        roles=dict(Counter(t["role"] for r in kept for t in r["messages"])),
        columns=dict(ready.shape.columns),
        removed=dict(lost),
        flagged=dict(cleaned.flagged),
    )


def stats(values: Sequence[int]) -> LengthStats:
    """Mean, median, 95th percentile (the smallest value that 95 % do not exceed), largest and sum."""
    ordered = sorted(values)
    n = len(ordered)
    p95 = ordered[max(0, -(-95 * n // 100) - 1)]
    p50 = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    total = sum(ordered)
    return LengthStats(mean=round(total / n, 3), p50=p50, p95=float(p95), max=float(ordered[-1]), total=float(total))


def domain_of(texts: Sequence[str], task: str = "sft") -> str:
    """The domain that most of the texts speak of, by the sentence's lexicon; `general` below `DOMAIN_SHARE`."""
    votes: Counter[str] = Counter()
    for text in texts:
        scores = domain_scores(lexicon.hits(lexicon.normalise(text[:2000]), "domain"))
        strong = {d: w for d, w in scores.items() if w >= 2}
        if strong:
            votes[max(strong, key=lambda d: (strong[d], d))] += 1
    if not votes:
        return "classification" if task == "classification" else "general"
    domain, count = max(votes.items(), key=lambda kv: (kv[1], kv[0]))
    return domain if count >= DOMAIN_SHARE * len(texts) else "general"


def _modality(rows: Sequence[Row]) -> str:
    """What a model must take besides text, by the rows that name such files."""
    for kind in ("videos", "audios", "images"):
        if any(r.get(kind) for r in rows):
            return kind.removesuffix("s")
    return "text"


def _first(row: Row, task: str) -> dict[str, Any]:
    """The first row in the words of CONTRACTS, with personal data blotted out."""
    said: dict[str, str] = {}
    for turn in row["messages"]:
        said.setdefault(turn["role"], turn["content"])
    first = {"user": said.get("user", ""), "assistant": said.get("assistant", "")}
    if "system" in said:
        first = {"system": said["system"], **first}
    if task == "dpo":
        first |= {"chosen": row["messages"][-1]["content"], "rejected": row["rejected_response"]}
    if row.get("positive_messages"):
        first["positive"] = row["positive_messages"][0][0]["content"]
    if "label" in row:
        first["label"] = str(row["label"])
    return {k: flags.masked(v)[:SHOWN] for k, v in first.items()}


def _problem(one: Problem) -> dict[str, Any]:
    names = ("kind", "severity", "file", "line", "row", "column", "member", "message", "fix")
    return {name: getattr(one, name) for name in names}


def as_report(profile: DataProfile) -> dict[str, Any]:
    """The shape of `autoswift data --json`; `shape`, `rows`, `splits` and lengths are added to what CONTRACTS names."""
    written, _, shape = profile.format.partition("/")
    return {
        "format": written,
        "shape": shape,
        "task": profile.task,
        "language": profile.language,
        "domain": profile.domain,
        "modality": profile.modality,
        "conversations": profile.conversations,
        "first": dict(profile.first),
        "roles": dict(profile.roles),
        "columns": dict(profile.columns),
        "removed": dict(profile.removed),
        "flagged": dict(profile.flagged),
        "problems": [_problem(p) for p in profile.problems],
        "rows": profile.rows,
        "splits": dict(profile.splits),
        "turns_mean": profile.turns_mean,
        "cjk_share": profile.cjk_share,
        "sha256": profile.sha256,
    }
