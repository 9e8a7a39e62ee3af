"""Examples by a teacher, in rounds: requests from seeds and personas, answers, a judge; what is thrown away is kept."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift.domain.profile import TaskProfile
from autoswift.domain.protocols import Question, Reply, Teacher
from autoswift.errors import BudgetExhausted, InputError
from autoswift.run.files import dumps, write_atomic
from autoswift.run.journal import RunJournal
from autoswift.tables import explain, table, text
from autoswift.understand.near import groups
from autoswift.understand.teacher import checks, prompts, replies
from autoswift.understand.teacher.asking import Asking, Limits
from autoswift.understand.text import same_key

GOALS = ("chat", "reasoning", "extraction", "classification")
"""What a teacher's dialogues can teach. Preferences want two answers and a person's taste, retrieval real documents."""
OWN_ANSWERS = {"creative_writing", "roleplay"}
"""Domains where each answer must be its own text; elsewhere like questions have like answers, and rightly so."""
FIRST_YIELD = 0.6
"""Share of new requests that end as rows, until it is measured."""
LEAST_YIELD = 0.15
"""So that a bad round does not ask for seven times as much."""
LONG_ANSWER = 60
"""Characters beyond which two equal answers are one text; short ones ("42", "yes") are often the same."""
EXAMPLES = 3
SHORT = 300
"""Characters of a text that the report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How much to make, and for what.

    Attributes:
        rows: examples to keep. seed: of every draw.
        language: that the examples shall be in, zh or en. reader: language of the report.
    """

    rows: int
    seed: int
    language: str
    reader: str = "en"


@dataclass(slots=True, eq=False)
class Draft:
    """One example on its way."""

    asked: str
    label: str = ""
    said: str = ""
    score: int = 0
    reason: str = ""

    def row(self, classify: bool) -> dict[str, Any]:
        """As the reader of data files takes it."""
        if classify:
            return {"text": self.asked, "label": self.said}
        return {"messages": [{"role": "user", "content": self.asked}, {"role": "assistant", "content": self.said}]}


@dataclass(slots=True)
class Made:
    """What a teacher made.

    Attributes:
        path: the rows, as JSON lines.
        rows: how many. thrown: reason to how many were thrown away.
        report: everything that the run's report shows.
    """

    path: Path
    rows: int
    thrown: dict[str, int]
    report: dict[str, Any] = field(default_factory=dict)


def generate(
    profile: TaskProfile, teacher: Teacher, wanted: Wanted, limits: Limits, folder: Path, journal: RunJournal
) -> Made:
    """Makes examples for a task, within the limits; a run that was killed goes on where it was.

    Args:
        profile: the task.
        teacher: who makes them.
        wanted: how many.
        limits: what it may cost.
        folder: of the run; `data/teacher.jsonl` is the journal, `data/teacher_rows.jsonl` the result and
            `data/teacher_thrown.jsonl` what was thrown away, each with why.
        journal: takes an event a round, and progress.

    Raises:
        InputError: when the goal is none that a teacher can serve, or it refuses all questions.
        HubUnreachable: when it does not answer before enough is there.
        BudgetExhausted: when the budget ended before enough was there.
    """
    if profile.goal not in GOALS or profile.modality != "text":
        raise InputError(
            *explain("teacher.goal", goal=profile.goal if profile.modality == "text" else profile.modality)
        )
    asking = Asking(teacher, folder / "data" / "teacher.jsonl", limits)
    workshop = Workshop(profile, asking, wanted, journal)
    workshop.work()
    smallest = min(wanted.rows, int(table("teacher")["limits"]["smallest"]))
    if len(workshop.kept) < smallest:
        asking.check_reached()
        raise BudgetExhausted(
            *explain(
                "teacher.too_few",
                rows=len(workshop.kept),
                smallest=smallest,
                thrown=len(workshop.thrown),
                why=text(f"sourcing.teacher.ended.{workshop.ended}", wanted.reader),
            )
        )
    return workshop.written(folder)


class Workshop:
    """The rounds. All that is random is drawn from the seed and the round, so that a repetition asks the same."""

    def __init__(self, profile: TaskProfile, asking: Asking, wanted: Wanted, journal: RunJournal) -> None:
        self.profile, self.asking, self.wanted, self.journal = profile, asking, wanted, journal
        self.rules = table("teacher")["limits"]
        self.kept: list[Draft] = []
        self.thrown: list[tuple[str, str, Draft]] = []
        self.scores: Counter[int] = Counter()
        self.unjudged = 0
        self.labels: list[str] = []
        self.ended = ""
        self.rounds = 0
        self.own_requests = False
        self._seen: list[str] = []

    @property
    def classify(self) -> bool:
        """Whether the rows are texts with a label."""
        return self.profile.goal == "classification"

    def work(self) -> None:
        """Rounds until enough is kept, the budget ends or nothing new comes."""
        stale = 0
        if self.classify and not self._find_labels():
            self.ended = self.asking.ended or "no_labels"
            return
        while len(self.kept) < self.wanted.rows and not self.asking.ended:
            before = len(self.kept)
            self._round()
            stale = stale + 1 if len(self.kept) == before else 0
            if stale >= self.rules["stale_rounds"]:
                self.ended = "stale"
                return
        self.ended = self.asking.ended or "enough"

    def _round(self) -> None:
        self.rounds += 1
        drafts = self._requests()
        drafts = self._without_near(drafts)
        drafts = self._answered(drafts)
        drafts = self._agreed(drafts) if self.classify else self._judged(drafts)
        self.kept += drafts
        counts = Counter(reason for reason, _, _ in self.thrown)
        spent = self.asking.spent
        self.journal.event(
            "teacher", round=self.rounds, kept=len(self.kept), thrown=dict(counts), requests=spent.requests,
            tokens=spent.tokens,
        )  # fmt: skip
        self._tell("round")

    def _tell(self, what: str) -> None:
        words = text(f"sourcing.teacher.{what}", self.wanted.reader, round=self.rounds)
        self.journal.progress(stage="understand", done=len(self.kept), total=self.wanted.rows, text=words)

    def _throw(self, reason: str, draft: Draft, why: str = "") -> None:
        self.thrown.append((reason, why, draft))

    def _find_labels(self) -> bool:
        reply = self.asking.many([prompts.labels(self.profile, self.wanted.language)])[0]
        self.labels = replies.labels(reply.text)[:12] if reply is not None else []
        return len(self.labels) >= 2

    def _requests(self) -> list[Draft]:
        """New requests (texts, when classifying) of this round, those that are no use thrown away."""
        tried = len(self.kept) + len(self.thrown)
        share = max(LEAST_YIELD, len(self.kept) / tried) if tried >= self.rules["batch"] else FIRST_YIELD
        most = min(self.rules["round"], math.ceil((self.wanted.rows - len(self.kept)) / share))
        # One request costs its part of a question, the answer, and the judgement.
        need = self.asking.size(self.rounds, most, 1 / self.rules["batch"] + (1 if self.classify else 2))
        draw = random.Random(f"{self.wanted.seed}:{self.rounds}")  # noqa: S311 - draws examples, no secrets
        pool = [d.asked for d in self.kept]
        count = int(self.rules["batch"])
        batches = [
            prompts.requests(self.profile, self.wanted.language, draw, pool, self.labels, count)
            for _ in range(math.ceil(need / count))
        ]
        given = self.asking.many([b.question for b in batches], lambda: self._tell("requests"))
        found: list[tuple[str, str]] = []
        for batch, reply in zip(batches, given, strict=True):
            if reply is None:
                continue
            listed = replies.instructions(reply.text)[: 2 * count]
            found += [(one, batch.label) for one in listed]
            if not listed:
                self._throw("unreadable", Draft(reply.text[:SHORT]))
        if not found and not self.classify and any(reply is not None for reply in given):
            self.own_requests = True  # it cannot write lists: the requests are put together here
            found = [(one, "") for one in prompts.own_requests(self.profile, self.wanted.language, draw, need)]
        return self._fit(found)

    def _fit(self, found: Sequence[tuple[str, str]]) -> list[Draft]:
        """The requests that can be used; the others are thrown away."""
        drafts = []
        for asked, label in found:
            draft = Draft(asked, label)
            reason = checks.instruction(asked, self.profile, self.wanted.language)
            if reason:
                self._throw(reason, draft)
            else:
                drafts.append(draft)
        return drafts

    def _without_near(self, drafts: list[Draft]) -> list[Draft]:
        """Without requests that are nearly one that came before, kept or not."""
        fresh, near, self._seen = _apart(self._seen, drafts, [d.asked for d in drafts])
        for draft, other in near:
            self._throw("near_duplicate", draft, other[:SHORT])
        return fresh

    def _answered(self, drafts: list[Draft]) -> list[Draft]:
        asked = [prompts.answer(self.profile, self.wanted.language, d.asked, self.labels) for d in drafts]
        out = []
        for draft, reply in self._with_replies(drafts, asked, "answers"):
            draft.said = reply.text
            reason = self._wrong_answer(draft, reply)
            if reason:
                self._throw(reason, draft)
            else:
                out.append(draft)
        return out if self.classify else self._own_answers(out)

    def _wrong_answer(self, draft: Draft, reply: Reply) -> str:
        if not self.classify:
            return checks.answer(draft.asked, reply.text, reply.finish, self.profile, self.wanted.language)
        said = same_key(reply.text).strip(" .。\"'“”《》「」")
        named = next((label for label in self.labels if same_key(label) == said), "")
        draft.said = named
        return "" if named else "not_a_label"

    def _own_answers(self, drafts: list[Draft]) -> list[Draft]:
        """Without answers that were given before: nearly, where each must be its own, or word for word."""
        if self.profile.domain in OWN_ANSWERS:
            fresh, near, _ = _apart([d.said for d in self.kept], drafts, [d.said for d in drafts])
            for draft, other in near:
                self._throw("same_answer", draft, other[:SHORT])
            return fresh
        known = {same_key(d.said) for d in self.kept if len(d.said) > LONG_ANSWER}
        fresh = []
        for draft in drafts:
            key = same_key(draft.said)
            if key in known:
                self._throw("same_answer", draft)
                continue
            fresh.append(draft)
            if len(draft.said) > LONG_ANSWER:
                known.add(key)
        return fresh

    def _agreed(self, drafts: list[Draft]) -> list[Draft]:
        """Texts that were read as the class that they were written for: two opinions of one teacher."""
        out = []
        for draft in drafts:
            if draft.said == draft.label:
                out.append(draft)
            else:
                self._throw("labels_disagree", draft, f"{draft.label} / {draft.said}")
        return out

    def _judged(self, drafts: list[Draft]) -> list[Draft]:
        asked = [prompts.judge(self.profile, self.wanted.language, d.asked, d.said) for d in drafts]
        good, silent = [], []
        for draft, reply in self._with_replies(drafts, asked, "judgements"):
            found = replies.judgement(reply.text)
            if found is None:
                silent.append(draft)
                continue
            draft.score, draft.reason = found
            self.scores[draft.score] += 1
            if draft.score >= self.rules["judge"]:
                good.append(draft)
            else:
                self._throw("low_score", draft, draft.reason)
        judged = sum(self.scores.values())
        self.unjudged += len(silent)
        if judged < self.rules["judge_readable"] * (judged + self.unjudged):
            return sorted([*good, *silent], key=drafts.index)  # it cannot judge: said in the report
        for draft in silent:
            self._throw("unjudged", draft)
        return good

    def _with_replies(
        self, drafts: Sequence[Draft], asked: Sequence[Question], what: str
    ) -> Iterable[tuple[Draft, Reply]]:
        """Each draft with its answer; those that were not asked any more are left out, they cost nothing."""
        given = self.asking.many(asked, lambda: self._tell(what))
        return [(draft, reply) for draft, reply in zip(drafts, given, strict=True) if reply is not None]

    def written(self, folder: Path) -> Made:
        """Writes rows and rejects; returns what came of it."""
        path = folder / "data" / "teacher_rows.jsonl"
        write_atomic(path, "".join(dumps(d.row(self.classify)) + "\n" for d in self.kept))
        rejects = [
            {"reason": reason, "why": why, "instruction": d.asked, "answer": d.said, "score": d.score or None}
            for reason, why, d in self.thrown
        ]
        write_atomic(folder / "data" / "teacher_thrown.jsonl", "".join(dumps(row) + "\n" for row in rejects))
        counts = Counter(row["reason"] for row in rejects)
        thrown = {str(reason): count for reason, count in counts.most_common()}
        examples = _examples(rejects)
        spent = self.asking.spent
        judged = sum(self.scores.values())
        report = {
            "model": self.asking.teacher.model,
            "host": self.asking.teacher.host,
            "wanted": self.wanted.rows,
            "kept": len(self.kept),
            "rounds": self.rounds,
            "ended": self.ended,
            "questions": dict(spent.by_kind),
            "recalled": spent.recalled,
            "tokens": spent.tokens,
            "seconds": round(self.asking.elapsed, 1),
            "labels": self.labels,
            "requests_by": "seeds" if self.own_requests else "teacher",
            "thrown": thrown,
            "thrown_examples": examples,
            "scores": {str(score): self.scores[score] for score in sorted(self.scores)},
            "judged": judged,
            "unjudged": self.unjudged,
            "judge_used": self.classify or judged >= self.rules["judge_readable"] * (judged + self.unjudged),
        }
        return Made(path, len(self.kept), thrown, report)


def _apart(
    earlier: list[str], drafts: list[Draft], texts: list[str]
) -> tuple[list[Draft], list[tuple[Draft, str]], list[str]]:
    """Drafts parted by their texts.

    Returns:
        Those near no earlier text and none before them; the others, each with the text that it is near; all texts now.
    """
    every = [*earlier, *texts]
    first = groups(every)
    start = len(earlier)
    fresh, near = [], []
    for i, draft in enumerate(drafts, start):
        if first[i] == i:
            fresh.append(draft)
        else:
            near.append((draft, every[first[i]]))
    return fresh, near, every


def _examples(rejects: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """A few different rejects of each reason, their texts cut."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rejects:
        shown = found.setdefault(str(row["reason"]), [])
        cut = {k: v[:SHORT] if isinstance(v, str) else v for k, v in row.items() if k != "reason" and v}
        if len(shown) < EXAMPLES and cut not in shown:
            shown.append(cut)
    return found
