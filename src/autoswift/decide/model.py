"""Which base model."""

from __future__ import annotations

from collections.abc import Sequence

from autoswift.catalog.models import ModelFacts
from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.kept import Kept
from autoswift.decide.need import constraints_of
from autoswift.decide.nofit import named_does_not_fit
from autoswift.decide.recommend import Candidate, Recommendation, best_of, recommend
from autoswift.decide.spending import too_little_money
from autoswift.domain.decision import Evidence
from autoswift.domain.plan import ModelChoice
from autoswift.errors import InputError, ModelError
from autoswift.tables import explain

USEFUL_TOKENS = 50_000
"""Fewer trained tokens than this hardly move a model: about 200 dialogues of 250 tokens (the table has it too)."""
LEVERS = (
    "hardware.devices.0.free_bytes",
    "task.budget.money",
    "task.budget.hours",
    "availability.huggingface",
    "profile.goal",
)
"""Facts that may turn the choice, the likeliest first."""


_recommend = Kept(recommend)
_best = Kept(best_of)


def recommended(inputs: Inputs) -> Recommendation:
    """The candidates for a plan's inputs, best first."""
    return _recommend(inputs.profile, inputs.hardware, constraints_of(inputs), inputs.models)


def choose_model(inputs: Inputs, book: Book) -> ModelChoice:
    """Picks the base model and writes the decision.

    Raises:
        ModelError: when no model can be had or none fits.
    """
    if inputs.folder is not None:
        choice = to_choice(inputs.folder, inputs)
        book.add(
            "model",
            choice.id,
            book.say("model.named"),
            evidence=[_in_words(inputs.folder, book)],
            source="user",
            instead=book.say("instead.model"),
        )
        return choice
    if book.silent:
        facts = _best(inputs.profile, inputs.hardware, constraints_of(inputs), inputs.models)
        if facts is None:
            raise ModelError(*explain("decide.no_model"))
        book.add("model", facts.id, "")
        return to_choice(facts, inputs)
    found = recommended(inputs)
    best = found.best
    if best is None:
        raise _nothing(found.filtered, inputs)
    key = "model.only_packaged" if _only_packaged(inputs) else "model.best"
    if inputs.task.model:
        key = "model.named_fits"
    score = f"{best.score:.1f}"
    book.add(
        "model",
        best.facts.id,
        book.say(key, score=score, parts=best.words(book.language)),
        evidence=[_in_words(best.facts, book), *_parts(best, book), *_room(best, book)],
        alternatives=_others(found, book),
        levers=LEVERS,
        instead=book.say("instead.model"),
    )
    return to_choice(best.facts, inputs)


def to_choice(facts: ModelFacts, inputs: Inputs) -> ModelChoice:
    """The choice, with the place it is had from."""
    if facts.path:
        source, location = "folder", facts.path
    elif facts.hf and inputs.availability.huggingface:
        source, location = "huggingface", facts.hf
    elif facts.ms and inputs.availability.modelscope:
        source, location = "modelscope", facts.ms
    else:
        source, location = "packaged", facts.packaged
    return ModelChoice(
        id=facts.id,
        source=source,  # type: ignore[arg-type]
        location=location,
        model_type=facts.model_type,
        template=facts.template,
        parameters=facts.parameters,
        active=facts.active,
        layers=facts.layers,
        hidden=facts.hidden,
        heads=facts.heads,
        kv_heads=facts.kv_heads,
        intermediate=facts.intermediate,
        vocabulary=facts.vocabulary,
        head_dim=facts.head_dim,
        tied=facts.tied,
        context=facts.context,
        languages=facts.languages,
        licence=facts.licence,
    )


def _only_packaged(inputs: Inputs) -> bool:
    here = inputs.availability
    return not (here.huggingface or here.modelscope)


def _others(found: Recommendation, book: Book) -> list[tuple[str, str]]:
    """The runners-up with what they lack, then the strongest that were filtered with the reason."""
    best = found.ranked[0]
    others = [(one.facts.id, one.against(best).words(book.language)) for one in found.ranked[1:4]]
    # Those that the machine, the licence or the hub keeps out say more than those made for another job.
    telling = [one for one in found.filtered if one.why_not and one.why_not.code not in _DULL and one.facts.curated]
    shown: dict[str, int] = {}
    for one in sorted(telling, key=lambda c: -c.score):
        code = one.why_not.code if one.why_not else ""
        if shown.get(code, 0) < 2 and len(others) < 9:
            shown[code] = shown.get(code, 0) + 1
            others.append((one.facts.id, one.why_not.words(book.language) if one.why_not else ""))
    return others


_DULL = ("out_kind", "out_quantized", "out_text_only", "out_modality")


def _parts(best: Candidate, book: Book) -> list[Evidence]:
    return [
        book.fact(f"model.score.{part.name}", round(part.points, 2), part.reason.words(book.language))
        for part in best.parts
    ]


def _room(best: Candidate, book: Book) -> list[Evidence]:
    train, serve = best.train_bytes / 2**30, best.serve_bytes / 2**30
    said_train = (
        book.say("model.train_shared", gib=f"{train:.1f}", method=best.method, devices=best.devices)
        if best.devices > 1
        else book.say("model.train", gib=f"{train:.1f}", method=best.method)
    )
    said_serve = (
        book.say("model.serve_shared", gib=f"{serve:.1f}", bits=best.serve_bits, devices=best.serve_devices)
        if best.serve_devices > 1
        else book.say("model.serve", gib=f"{serve:.1f}", bits=best.serve_bits)
    )
    return [
        book.fact("model.train_gib", round(train, 2), said_train),
        book.fact("model.serve_gib", round(serve, 2), said_serve),
    ]


def _in_words(facts: ModelFacts, book: Book) -> str:
    return book.say(
        "model.facts",
        parameters=f"{facts.parameters / 1e9:.3g}",
        languages=", ".join(facts.languages) or "?",
        licence=facts.licence or "?",
        context=facts.context,
    )


def _nothing(filtered: Sequence[Candidate], inputs: Inputs) -> InputError:
    if _only_packaged(inputs) and not inputs.availability.packaged:
        return ModelError(*explain("decide.no_model"))
    known = [(one.why_not, one.facts) for one in filtered if one.why_not]
    if inputs.task.model and len(known) == 1 and known[0][0].code == "out_memory":
        return named_does_not_fit(known[0][1], inputs)
    slow = [dict(why_not.values)["minutes"] for why_not, facts in known if why_not.code == "out_slow" and facts.curated]
    if slow and (short := too_little_money(inputs, 2 * min(map(float, slow)) / 60)) is not None:
        return short  # a training may take half of the wall-clock that the money buys
    known.sort(key=lambda pair: (pair[0].code in _DULL, not pair[1].curated, pair[1].parameters))
    reasons = "; ".join(f"{facts.id}: {why_not.words(inputs.task.language)}" for why_not, facts in known[:6])
    return ModelError(*explain("decide.no_fit", reasons=reasons))
