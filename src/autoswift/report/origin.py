"""Where data came from that the user did not bring, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoswift.report import words
from autoswift.tables import text

Sample = tuple[tuple[str, str, str], ...]
"""What a sample says: class, name and text of each part."""
TEACHER_FILES = (("data/teacher_rows.jsonl", "rows_file"), ("data/teacher_thrown.jsonl", "thrown_file"))
MOST_REJECTED = 10
_ANSWERS = frozenset({"assistant", "output", "response", "answer", "completion", "label", "chosen"})


_KNOWN = {"output": "assistant", "response": "assistant", "answer": "assistant", "completion": "assistant",
          "question": "user", "query": "user", "prompt": "user"}  # fmt: skip
"""Columns of data sets whose names a reader need not know."""


@dataclass(frozen=True, slots=True)
class Other:
    """A candidate that was not taken."""

    name: str
    licence: str
    size: str
    why_not: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Thrown:
    """A reason for which a teacher's examples were thrown away; each example with a remark on it."""

    name: str
    count: int
    share: str
    examples: tuple[tuple[str, Sample], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Everything that is shown of it; texts are in the reader's language.

    Attributes:
        story: what happened, a sentence.
        facts: name, value, a remark, an address on the web.
        because: why it was chosen. warnings: what to mind.
        samples: the first records.
        thrown: what a teacher made and was not kept, the most frequent reason first; thrown_total: all of it.
        others: candidates that were not taken, best first. rejected: those that cannot be used, with why.
        files: address in the run folder, meaning.
    """

    story: str
    facts: tuple[tuple[str, str, str, str], ...]
    because: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    thrown: tuple[Thrown, ...] = ()
    thrown_total: int = 0
    others: tuple[Other, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()


def origin(sourced: Mapping[str, Any] | None, language: str) -> Origin | None:
    """What is shown of where the data came from; None for a user's own data.

    Args:
        sourced: a `SourcedData` as its JSON value, or None.
        language: `zh` or `en`.
    """
    return _Telling(sourced, language).origin() if sourced else None


class _Telling:
    def __init__(self, sourced: Mapping[str, Any], language: str) -> None:
        self.sourced, self.language = sourced, language
        self.details: Mapping[str, Any] = sourced.get("details") or {}
        listed: Sequence[Mapping[str, Any]] = sourced.get("candidates") or [{}]
        self.chosen, self.others = listed[0], listed[1:]
        decided: Sequence[Mapping[str, Any]] = sourced.get("decisions") or [{}]
        self.decision = decided[0]
        self.taught = sourced.get("kind") == "teacher"

    def tell(self, key: str, **values: object) -> str:
        return text(f"report.origin.{key}", self.language, **values)

    def number(self, value: Any) -> str:
        return words.value(value, self.language)

    def origin(self) -> Origin:
        named = self.decision.get("source") == "user"
        thrown = self.sourced.get("thrown_away") or {}
        warnings = dict.fromkeys([*_texts(self.chosen.get("warnings")), *_texts(self.details.get("warnings"))])
        rejected = (self.details.get("search") or {}).get("rejected") or []
        return Origin(
            story=self.tell("teacher" if self.taught else "named" if named else "hub"),
            facts=self._taught_facts() if self.taught else self._hub_facts(),
            because=self._because(),
            warnings=tuple(warnings),
            samples=tuple(_sample(one, self.language) for one in self.sourced.get("samples") or []),
            thrown=self._thrown(thrown),
            thrown_total=sum(thrown.values()),
            others=tuple(self._other(one) for one in self.others),
            rejected=tuple((str(one.get("reference")), str(one.get("why"))) for one in rejected[:MOST_REJECTED]),
            files=tuple((path, self.tell(key)) for path, key in TEACHER_FILES) if self.taught else (),
        )

    def _because(self) -> tuple[str, ...]:
        """The decision's reason, then what speaks for it."""
        shown = [str(self.decision.get("because") or ""), *_texts(self.chosen.get("because"))]
        return tuple(one for one in dict.fromkeys(shown) if one)

    def _licence(self, licence: Any, commercial: Any) -> tuple[str, str]:
        allowed = commercial if commercial in ("yes", "no") else "unknown"
        return str(licence or self.tell("no_licence")), self.tell(f"licence_{allowed}")

    def _size(self, one: Mapping[str, Any]) -> str:
        rows = self.tell("rows", rows=self.number(int(one["rows"]))) if one.get("rows") else str(one.get("size_words"))
        known = words.size(one.get("bytes"))
        return ", ".join(part for part in (rows, known) if part and part not in ("None", words.NOTHING))

    def _hub_facts(self) -> tuple[tuple[str, str, str, str], ...]:
        get = self.sourced.get
        address = _web(self.details.get("address") or self.chosen.get("address"))
        licence, commercial = self._licence(get("licence"), get("commercial"))
        search = self.details.get("search") or {}
        asked = ""
        if search.get("searched"):
            shown = {"words": ", ".join(_texts(search["searched"])), "count": self.number(search.get("considered"))}
            asked = self.tell("searched", **shown)
        named = self.sourced.get("words") or {}
        left_out = self.details.get("left_out") or {}
        rows = [
            ("set", str(get("origin") or ""), str(self.chosen.get("title") or ""), address),
            ("about", str(self.details.get("description") or self.chosen.get("about") or ""), "", ""),
            ("licence", licence, commercial, ""),
            ("size", self._size({"bytes": self.details.get("bytes")} | dict(self.chosen)), "", ""),
            ("revision", str(self.details.get("revision") or ""), "", ""),
            ("search", asked, "", ""),
            ("left_out", ", ".join(f"{named.get(why, why)} {self.number(n)}" for why, n in left_out.items()), "", ""),
        ]
        return tuple((self.tell(f"f.{key}"), *row) for key, *row in rows if row[0])  # type: ignore[misc]

    def _taught_facts(self) -> tuple[tuple[str, str, str, str], ...]:
        details, thrown = self.details, sum((self.sourced.get("thrown_away") or {}).values())
        licence, commercial = self._licence(self.sourced.get("licence"), self.sourced.get("commercial"))
        questions = sum((details.get("questions") or {}).values())
        counts = {name: self.number(details.get(name)) for name in ("kept", "wanted")}
        spent = {"questions": self.number(questions), "tokens": self.number(details.get("tokens"))}
        spent["time"] = words.duration(details.get("seconds"), self.language)
        scores = [self.tell("judge", score=s, count=self.number(n)) for s, n in (details.get("scores") or {}).items()]
        ended = f"sourcing.teacher.ended.{details.get('ended')}"
        rows = [
            ("teacher", self.tell("at", model=details.get("model", ""), host=details.get("host", "")), ""),
            ("licence", licence, commercial),
            ("made", self.tell("made", thrown=self.number(thrown), **counts), ""),
            ("labels", ", ".join(_texts(details.get("labels"))), ""),
            ("judge", ", ".join(scores), "" if details.get("judge_used", True) else self.tell("no_judge")),
            ("spent", self.tell("spent", **spent), ""),
            ("ended", words.named_by(ended, str(details.get("ended") or ""), self.language), ""),
        ]
        return tuple((self.tell(f"f.{key}"), shown, note, "") for key, shown, note in rows if shown)

    def _thrown(self, counts: Mapping[str, int]) -> tuple[Thrown, ...]:
        examples = self.details.get("thrown_examples") or {}
        named = self.sourced.get("words") or {}
        total = sum(counts.values())
        found = [
            Thrown(
                str(named.get(why, why)),
                int(count),
                words.percent(count / total, self.language),
                tuple(self._reject(one) for one in examples.get(why) or []),
            )
            for why, count in counts.items()
            if count
        ]
        return tuple(sorted(found, key=lambda one: -one.count))

    def _reject(self, one: Mapping[str, Any]) -> tuple[str, Sample]:
        score = self.tell("score", score=one["score"]) if one.get("score") else ""
        note = " · ".join(part for part in (str(one.get("why") or ""), score) if part)
        return note, _sample({k: v for k, v in one.items() if k not in ("why", "score")}, self.language)

    def _other(self, one: Mapping[str, Any]) -> Other:
        reasons = {str(a.get("value")): str(a.get("why_not") or "") for a in self.decision.get("alternatives") or []}
        name = str(one.get("reference") or one.get("id") or "")
        licence, commercial = self._licence(one.get("licence"), one.get("commercial"))
        separator = "，" if self.language == "zh" else ", "
        why_not = reasons.get(name) or " ".join(_texts(one.get("warnings")))
        return Other(name, f"{licence}{separator}{commercial}", self._size(one), why_not, _web(one.get("address")))


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else []


def _web(address: Any) -> str:
    """An address that a page may link to: of the web, and nothing else."""
    shown = str(address or "")
    return shown if shown.startswith(("https://", "http://")) else ""


def _sample(record: Any, language: str) -> Sample:
    """A record as it stands in its file, part by part."""
    if not isinstance(record, Mapping):
        return (("user", "", str(record)),)
    turns = record.get("messages") or record.get("conversations")
    if isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
        return tuple(_turn(turn, language) for turn in turns)
    shown = []
    for name, value in record.items():
        if value in (None, "", [], {}):
            continue
        role = "assistant" if str(name).lower() in _ANSWERS else "user"
        label = words.named_by(f"report.column.{_KNOWN.get(str(name), name)}", str(name), language)
        shown.append((role, label, value if isinstance(value, str) else words.value(value, language)))
    return tuple(shown)


def _turn(turn: Mapping[str, Any], language: str) -> tuple[str, str, str]:
    said = str(turn.get("role") or turn.get("from") or "")
    role = {"human": "user", "gpt": "assistant"}.get(said, said)
    shown = turn.get("content") if "content" in turn else turn.get("value")
    return ("assistant" if role == "assistant" else "user"), words.named("role", role, language), str(shown or "")
