"""Which base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoswift.catalog.models import ModelFacts
from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.domain.plan import ModelChoice
from autoswift.errors import ModelError
from autoswift.hardware.memory import MemorySettings, peak_memory
from autoswift.hardware.shape import shape_of
from autoswift.hardware.speed import start_seconds, training_tokens_per_second
from autoswift.tables import explain, table

USEFUL_TOKENS = 50_000
"""Fewer trained tokens than this hardly move a model: about 200 dialogues of 250 tokens."""


@dataclass(frozen=True, slots=True)
class _Judged:
    facts: ModelFacts
    score: float
    why_not: str
    parts: str


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
            reverse_when=book.say("model.named_reverse"),
            source="user",
            instead=book.say("instead.model"),
        )
        return choice
    judged = [_judge(facts, inputs, book) for facts in inputs.models]
    fit = sorted((j for j in judged if not j.why_not), key=lambda j: (-j.score, j.facts.id))
    if not fit:
        raise _nothing(judged, inputs)
    best = fit[0]
    others = [(j.facts.id, book.say("model.lower", score=f"{j.score:.2f}", parts=j.parts)) for j in fit[1:4]]
    others += [(j.facts.id, j.why_not) for j in judged if j.why_not][:5]
    key = "model.only_packaged" if _only_packaged(inputs) else "model.best"
    book.add(
        "model",
        best.facts.id,
        book.say(key, score=f"{best.score:.2f}", parts=best.parts),
        evidence=[_in_words(best.facts, book)],
        alternatives=others,
        reverse_when=book.say("model.reverse_offline" if _only_packaged(inputs) else "model.reverse"),
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


def _reachable(facts: ModelFacts, inputs: Inputs) -> bool:
    here = inputs.availability
    return bool((facts.hf and here.huggingface) or (facts.ms and here.modelscope) or (facts.packaged and here.packaged))


def _judge(facts: ModelFacts, inputs: Inputs, book: Book) -> _Judged:
    """Hard filters first, then a score whose parts are said in words."""
    out = _why_not(facts, inputs, book)
    wanted = {"zh", "en"} if inputs.data.language == "mixed" else {inputs.data.language}
    language = len(wanted & set(facts.languages)) / len(wanted)
    domain = 1.0 if inputs.profile.domain in facts.domains else 0.0
    year = int(facts.released[:4]) if facts.released[:4].isdigit() else 2023
    size = math.log10(max(facts.parameters, 1) / 1e8)
    # Weights: language outweighs a tenfold of size, a domain's name less than half of it, a year a tenth:
    # benchmark tables show about 10 points for ×10 parameters and for a generation of models, while models
    # named after a domain but one generation older rarely lead on that domain's own benchmarks.
    score = 1.0 * size + 1.2 * language + 0.4 * domain + 0.1 * (year - 2023)
    parts = book.say("model.parts", size=f"{size:.2f}", language=f"{language:.1f}", domain=f"{domain:.0f}", year=year)
    return _Judged(facts, score, out, parts)


def _why_not(facts: ModelFacts, inputs: Inputs, book: Book) -> str:
    if not _reachable(facts, inputs):
        return book.say("model.unreachable")
    if inputs.profile.modality != "text" and facts.modality == "text":
        return book.say("model.modality", modality=inputs.profile.modality)
    if inputs.profile.modality == "text" and facts.modality != "text":
        return book.say("model.text_only")
    if facts.blocked:
        return book.say(f"model.blocked_{facts.blocked}")
    if facts.gated and not inputs.task.model:  # one that the user named may be theirs to use
        return book.say("model.gated")
    if inputs.profile.constraints.get("licence") == "commercial" and not facts.commercial:
        return book.say("model.licence", licence=facts.licence or "?")
    device, shape = inputs.hardware.device, shape_of(facts)
    settings = MemorySettings(
        length=512, micro_batch=1, device=device.kind, precision="bfloat16" if device.bf16 else "float32"
    )
    need = peak_memory(shape, "lora", settings).high
    room = device.free_bytes * float(table("rules")["memory"]["share"])
    if need > room:
        return book.say("model.memory", need=f"{need / 2**30:.1f}", room=f"{room / 2**30:.1f}")
    rate = training_tokens_per_second(shape, "lora", device, length=512)
    seconds = USEFUL_TOKENS / rate + start_seconds(shape, device) if rate > 0 else 0.0
    # Half of the wall-clock: the rest goes to the other trials, evaluation and serving.
    if seconds > inputs.task.budget.seconds / 2 and not (_only_packaged(inputs) and facts.packaged):
        return book.say("model.slow", minutes=f"{seconds / 60:.0f}")
    return ""


def _in_words(facts: ModelFacts, book: Book) -> str:
    return book.say(
        "model.facts",
        parameters=f"{facts.parameters / 1e6:,.0f}",
        languages=", ".join(facts.languages) or "?",
        licence=facts.licence or "?",
        context=facts.context,
    )


def _nothing(judged: Sequence[_Judged], inputs: Inputs) -> ModelError:
    reasons = "; ".join(f"{j.facts.id}: {j.why_not}" for j in judged[:6])
    if _only_packaged(inputs) and not inputs.availability.packaged:
        return ModelError(*explain("decide.no_model"))
    return ModelError(*explain("decide.no_fit", reasons=reasons))
