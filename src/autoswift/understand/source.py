"""Where a run's data comes from when the user named no file: a hub, or a teacher; chosen, brought, and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoswift.domain.dataset import DatasetCard, Hub, reference
from autoswift.domain.decision import Alternative, Decision, Evidence
from autoswift.domain.profile import TaskProfile
from autoswift.domain.protocols import DatasetHub, Teacher
from autoswift.errors import AutoSwiftError, DataError, HubUnreachable, InputError, Vetoed
from autoswift.run.files import dumps, plain, read_json, read_lines, write_atomic
from autoswift.run.journal import RunJournal
from autoswift.tables import explain, table, text, told
from autoswift.understand.find import Candidate, Proposal, candidate, registered, search
from autoswift.understand.rank import Facts, weigh
from autoswift.understand.sourced import (
    SAMPLES,
    Choose,
    SourcedData,
    SourceOptions,
    cut,
    samples,
    split_reference,
)
from autoswift.understand.teacher.asking import Limits
from autoswift.understand.teacher.generate import GOALS, Wanted, generate
from autoswift.understand.topics import topics_of

SURE = 0.6
"""Relevance from which the best data set of a hub comes before a teacher: real texts, once they are about the task."""


def source_data(
    profile: TaskProfile,
    options: SourceOptions,
    folder: Path,
    hub: DatasetHub,
    teacher: Teacher | None,
    journal: RunJournal,
    choose: Choose | None = None,
) -> SourcedData:
    """Finds or makes the data of a run; called again after a break, it goes on where it was.

    Args:
        profile: the task.
        options: what the user said.
        folder: of the run; `data/source.json` keeps the result, `data/choice.json` what was chosen.
        hub: the hubs. teacher: a model that makes examples, or None; closed at the end.
        journal: takes `source` events and progress.
        choose: asks the user; None takes the best.

    Raises:
        InputError: when nothing can be found or made.
        Vetoed: when the user wants none of what was found.
        HubUnreachable: when the hub or the teacher breaks off; going on later continues.
    """
    kept = _kept(folder)
    if kept is not None:
        return kept
    work = _Work(profile, options, folder, hub, teacher, journal)
    try:
        chosen, others, found = work.recalled() or work.chosen(choose)
        made = work.brought(chosen, others, found, may_change=choose is None and options.data is None)
    finally:
        if teacher is not None:
            teacher.close()
    write_atomic(folder / "data" / "source.json", dumps(made, indent=1))
    journal.event("source", state="ready", origin=made.origin, licence=made.licence, thrown=made.thrown_away)
    return made


def _kept(folder: Path) -> SourcedData | None:
    """What an earlier owner of the run ended with, while its files are still there."""
    path = folder / "data" / "source.json"
    if not path.exists():
        return None
    made = TypeAdapter(SourcedData).validate_python(read_json(path))
    return made if all(Path(one).is_file() for one in made.paths) else None


class _Work:
    """The way from a task to files."""

    def __init__(
        self,
        profile: TaskProfile,
        options: SourceOptions,
        folder: Path,
        hub: DatasetHub,
        teacher: Teacher | None,
        journal: RunJournal,
    ) -> None:
        self.profile, self.options, self.folder = profile, options, folder
        self.hub, self.teacher, self.journal = hub, teacher, journal
        self.language = options.language

    def recalled(self) -> tuple[Candidate, list[Candidate], Proposal | None] | None:
        """The choice of an earlier owner: nobody is asked twice."""
        path = self.folder / "data" / "choice.json"
        if not path.exists():
            return None
        try:
            listed = TypeAdapter(list[Candidate]).validate_python(read_json(path))
        except (InputError, ValidationError):
            return None
        return (listed[0], listed[1:], None) if listed else None

    def chosen(self, choose: Choose | None) -> tuple[Candidate, list[Candidate], Proposal | None]:
        """What the user named; else the best of what was found, or what the user takes of it."""
        if self.options.data is not None:
            return self._keep(self.named(self.options.data), [], None)
        found, listed = self.candidates()
        self.journal.event(
            "source", state="proposed", candidates=listed, considered=found.considered, searched=found.searched,
            asked=found.asked, failed=found.failed, rejected=found.rejected, by=found.by,
        )  # fmt: skip
        if not listed:
            raise InputError(*explain("sourcing.nothing", why=self._why_nothing(found)))
        taken = self._best(listed) if choose is None else choose(listed)
        if taken is None:
            raise Vetoed(*explain("sourcing.declined"))
        return self._keep(taken, [one for one in listed if one != taken], found)

    def _best(self, listed: Sequence[Candidate]) -> Candidate:
        """The first, when it is good enough to be taken without asking.

        Raises:
            InputError: when it is not, naming it.
        """
        first = listed[0]
        if first.kind == "hub" and not _good(first):
            warnings = " ".join(first.warnings)
            raise InputError(*explain("sourcing.not_good_enough", best=first.reference, why=warnings))
        return first

    def _keep(
        self, taken: Candidate, others: list[Candidate], found: Proposal | None
    ) -> tuple[Candidate, list[Candidate], Proposal | None]:
        write_atomic(self.folder / "data" / "choice.json", dumps([taken, *others], indent=1))
        self.journal.event("source", state="chosen", origin=taken.reference)
        return taken, others, found

    def candidates(self) -> tuple[Proposal, list[Candidate]]:
        """What hubs and the teacher offer, best first."""
        options = self.options
        found = Proposal()
        if options.prefer != "teacher":
            self.journal.progress(stage="understand", done=0, total=0, text=text("sourcing.searching", self.language))
            found = search(self.profile, self.hub, embedder=options.embedder, language=self.language)
        listed = list(found.candidates)
        if options.prefer != "hub" and self.teacher is not None and self._teachable():
            offered = self.offered(self.teacher)
            first = options.prefer == "teacher" or not listed or listed[0].relevance < SURE or not _good(listed[0])
            listed = [offered, *listed] if first else [*listed, offered]
        return found, listed

    def _teachable(self) -> bool:
        return self.profile.goal in GOALS and self.profile.modality == "text"

    def offered(self, teacher: Teacher) -> Candidate:
        """The teacher as something to choose."""
        rows = self.rows()
        return Candidate(
            kind="teacher",
            reference=f"teacher://{teacher.model}",
            id=teacher.model,
            about=text("sourcing.teacher.about", self.language, model=teacher.model, host=teacher.host, rows=rows),
            rows=rows,
            because=(text("sourcing.teacher.because", self.language, rows=rows),),
            warnings=(text("sourcing.teacher.licence", self.language, model=teacher.model),),
        )

    def rows(self) -> int:
        """Examples that a teacher shall make."""
        return int(self.options.rows or table("teacher")["defaults"]["rows"])

    def _why_nothing(self, found: Proposal) -> str:
        """What kept every way from leading somewhere."""
        parts = []
        if self.options.prefer != "teacher":
            if not self.hub.answering():
                parts.append(text("sourcing.none.no_hub", self.language))
            elif found.failed and not any(found.asked.values()):
                parts.append("; ".join(found.failed.values()))
            else:
                words = ", ".join(found.searched) or told("error.unknown")
                count = found.considered
                parts.append(text("sourcing.none.nothing_fits", self.language, considered=count, words=words))
            parts += [f"{one.reference}: {one.why}" for one in found.rejected[:3]]
        if self.options.prefer != "hub":
            key = "no_teacher" if self.teacher is None else "not_teachable" if not self._teachable() else ""
            parts += [text(f"sourcing.none.{key}", self.language)] if key else []
        return " ".join(parts)

    def named(self, data: str) -> Candidate:
        """The data set that the user named, with what it weighs; nothing is refused that they asked for.

        Raises:
            DataError: no such data set, or nothing in it that can be read.
            HubUnreachable: when its hub does not answer.
        """
        row = registered(data)
        named = split_reference(data)
        if named:
            hub, dataset_id, subset = named
            row = registered(dataset_id)
            card, splits = self.hub.card(hub, dataset_id), row.splits if row else ("train",)
        elif row is not None:
            card, subset, splits = self._registered(row.ids()), "", row.splits
        else:
            raise DataError(*explain("dataset.bad_id", dataset=data))
        if card.gated:
            raise DataError(*explain("dataset.gated", dataset=card.reference))
        selection = self.hub.select(card, subset, splits, int(table("sourcing")["largest_gb"] * 1e9))
        facts = Facts(card, row.name, row.goal, row.modality, row.domain, row.about) if row else Facts(card)
        worth = weigh(self.profile, topics_of(self.profile), facts, 0.0, self.language)
        return candidate(
            card, worth, size=selection.size, files=len(selection.files), subset=selection.subset, splits=splits,
            registered_as=row.name if row else "",
        )  # fmt: skip

    def _registered(self, ids: Mapping[Hub, str]) -> DatasetCard:
        """The registered set's card from the first hub that has it."""
        problem: AutoSwiftError | None = None
        answering = self.hub.answering()
        for hub in sorted(ids, key=lambda hub: hub not in answering):
            try:
                return self.hub.card(hub, ids[hub])
            except (DataError, HubUnreachable) as exc:
                problem = problem or exc
        raise problem or DataError(*explain("dataset.bad_id", dataset=""))

    def brought(
        self, chosen: Candidate, others: Sequence[Candidate], found: Proposal | None, *, may_change: bool
    ) -> SourcedData:
        """The files, from the hub or the teacher. What arrives damaged is replaced by the next best when it may be."""
        ways = [chosen, *(others if may_change else ())]
        for number, one in enumerate(ways):
            try:
                made = self._taught(one) if one.kind == "teacher" else self._downloaded(one, found)
            except DataError as exc:
                if number + 1 == len(ways):
                    raise
                self.journal.event("note", text=f"{one.reference}: {exc.what}", level="warn")
                continue
            rest = [other for other in [chosen, *others] if other != one]
            return replace(made, candidates=(one, *rest), decisions=(self._decision(one, rest, made),))
        raise DataError(*explain("sourcing.nothing", why=""))

    def _downloaded(self, one: Candidate, found: Proposal | None) -> SourcedData:
        if one.hub is None:
            raise DataError(*explain("dataset.bad_id", dataset=one.reference))
        card = self.hub.card(one.hub, one.id)
        selection = self.hub.select(card, one.subset, one.splits, int(table("sourcing")["largest_gb"] * 1e9))
        done, words = 0, text("sourcing.downloading", self.language, name=one.reference)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            total = max(selection.size, done)
            self.journal.progress(stage="understand", done=done, total=total, unit="bytes", text=words)

        got = self.hub.download(card, selection, advance)
        paths, left_out = tuple(str(path) for path in got.paths), selection.left_out
        return SourcedData(
            paths=paths,
            kind="hub",
            origin=reference(one.hub, one.id, one.subset),
            licence=one.licence,
            commercial=one.commercial,
            samples=samples(paths, self.language),
            words={why: text(f"sourcing.left_out.{why}", self.language) for why in sorted(set(left_out.values()))},
            details={
                "address": one.address,
                "revision": card.revision,
                "description": one.about,
                "bytes": selection.size,
                "sha256": dict(got.hashes),
                "left_out": _counted(left_out),
                "warnings": list(one.warnings),
                "because": list(one.because),
                "search": plain(_short(found)) if found else {},
            },
        )

    def _taught(self, one: Candidate) -> SourcedData:
        if self.teacher is None:
            raise InputError(*explain("sourcing.no_teacher_now", model=one.id))
        profile, options = self.profile, self.options
        spoken = profile.constraints.get("answer_language", profile.language)
        wanted = Wanted(
            rows=self.rows(),
            seed=options.seed,
            language="zh" if spoken in ("zh", "mixed") else "en",
            reader=self.language,
        )
        defaults = table("teacher")["defaults"]
        limits = Limits(
            requests=options.requests or defaults["requests"],
            tokens=options.tokens or defaults["tokens"],
            seconds=options.seconds,
            concurrency=defaults["concurrency"],
        )
        made = generate(profile, self.teacher, wanted, limits, self.folder, self.journal)
        if made.rows < wanted.rows:
            short = text("sourcing.teacher.short", self.language, rows=made.rows, wanted=wanted.rows,
                         why=text(f"sourcing.teacher.ended.{made.report['ended']}", self.language))  # fmt: skip
            self.journal.event("note", text=short, level="warn")
        if not made.report["judge_used"]:
            self.journal.event("note", text=text("sourcing.teacher.no_judge", self.language), level="warn")
        return SourcedData(
            paths=(str(made.path),),
            kind="teacher",
            origin=one.reference,
            samples=tuple(cut(row) for row in read_lines(made.path)[:SAMPLES]),
            thrown_away=made.thrown,
            words={why: text(f"sourcing.thrown.{why}", self.language) for why in made.thrown},
            details=made.report | {"warnings": list(one.warnings)},
        )

    def _decision(self, one: Candidate, others: Sequence[Candidate], made: SourcedData) -> Decision:
        if self.options.data is not None:
            because = self._say("named")
        elif one.kind == "teacher":
            because = self._say("teacher", rows=made.details["kept"])
        else:
            because = self._say("hub", score=f"{one.score:.2f}")
        licence = made.licence or text("sourcing.no_licence", self.language)
        facts = dict.fromkeys((*one.because, *one.warnings, self._say(f"licence_{made.commercial}", licence=licence)))
        return Decision(
            name="data",
            value=made.origin,
            because=because,
            evidence=tuple(Evidence(text=words) for words in facts),
            alternatives=tuple(
                Alternative(
                    value=other.reference,
                    why_not=" ".join(other.warnings) or self._say("worth_less", score=f"{other.score:.2f}"),
                )
                for other in others
            ),
            source="user" if self.options.data is not None else "rule",
        )

    def _say(self, key: str, **values: object) -> str:
        return text(f"sourcing.decision.{key}", self.language, **values)


def _good(one: Candidate) -> bool:
    """Whether a data set is worth so much that nobody need be asked."""
    return bool(one.score >= table("sourcing")["auto"])


def _short(found: Proposal) -> dict[str, Any]:
    """What the report says about the search; the candidates stand beside it."""
    return {key: value for key, value in asdict(found).items() if key != "candidates"}


def _counted(left_out: Mapping[str, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for why in left_out.values():
        counts[why] = counts.get(why, 0) + 1
    return counts
