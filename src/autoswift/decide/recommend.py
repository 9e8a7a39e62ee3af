"""Which base models suit a task on a machine, best first, each with its reasons, and why the others do not.

Filters come first: what the task forbids (`weigh`), then memory for training and for serving, then time. The score does
not depend on the machine but for one part: a model that fits only when squeezed (4-bit training, 8-bit serving) is put
lower. So more memory never gives a choice of lower score.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from autoswift.catalog.models import ModelFacts, catalog
from autoswift.decide.need import Constraints, EdgeBox, Need, Reason, edge_box, need_of
from autoswift.decide.place import SERVED, How, Place, Wants, place_of, wants
from autoswift.decide.weigh import Part, Weighed, order, weighed
from autoswift.domain.profile import GIB, Device, HardwareProfile, TaskProfile
from autoswift.hardware.serving_memory import BYTES_A_WEIGHT, serving_memory
from autoswift.hardware.shape import shape_of
from autoswift.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that can be taken, or one that cannot, with the reason.

    Attributes:
        score: sum of the parts, in points of the ability's test.
        method: lora or qlora: how it can be trained here. serve_bits: 16, 8 or 4: how it can be served.
        devices, serve_devices: that share the training's weights, and the served ones.
        train_bytes, serve_bytes: upper bounds of the memory for both, on each device.
        seconds: until one useful training is done.
        fetch_seconds, start_seconds: before the first step. tokens_per_second: of training; 0 when not known.
        why_not: why it is out; None when it is not.
    """

    facts: ModelFacts
    score: float = 0.0
    parts: tuple[Part, ...] = ()
    method: str = ""
    serve_bits: int = 0
    devices: int = 1
    serve_devices: int = 1
    train_bytes: int = 0
    serve_bytes: int = 0
    seconds: float = 0.0
    fetch_seconds: float = 0.0
    start_seconds: float = 0.0
    tokens_per_second: float = 0.0
    why_not: Reason | None = None

    def words(self, language: str) -> str:
        """Its score in parts: those that tell it from others, the largest first."""
        parts = sorted((p for p in self.parts if p.name == "ability" or abs(p.points) >= 0.05), key=_weight)
        said = [f"{part.reason.words(language)} {part.points:+.1f}" for part in parts]
        return ("；" if language == "zh" else "; ").join(said)

    def against(self, best: Candidate) -> Reason:
        """Why it comes after the best one: the part that costs it most."""
        mine, theirs = {p.name: p for p in self.parts}, {p.name: p for p in best.parts}
        gap = best.score - self.score
        names = sorted(mine.keys() | theirs.keys())

        def loss(name: str) -> float:
            return (theirs[name].points if name in theirs else 0.0) - (mine[name].points if name in mine else 0.0)

        worst = max(names, key=loss)
        if loss(worst) < 0.05:
            return Reason.of("behind_tie", gap=f"{gap:.1f}")
        code = (
            worst if worst in ("domain", "language", "cost", "squeezed", "experts", "licence", "thinks") else "ability"
        )
        return Reason.of(f"behind_{code}", gap=f"{gap:.1f}", loss=f"{loss(worst):.1f}", best=best.facts.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Candidates, best first, and those that were filtered.

    Attributes:
        edge: the box that the result shall run on, when it is for the edge.
    """

    need: Need
    ranked: tuple[Candidate, ...]
    filtered: tuple[Candidate, ...]
    edge: EdgeBox | None = None

    @property
    def best(self) -> Candidate | None:
        """The first, or None where nothing fits."""
        return self.ranked[0] if self.ranked else None


def recommend(
    profile: TaskProfile,
    hardware: HardwareProfile,
    constraints: Constraints = Constraints(),  # noqa: B008 - a frozen value
    models: Sequence[ModelFacts] | None = None,
    *,
    depth: int = 8,
) -> Recommendation:
    """Ranks base models for a task on a machine.

    Args:
        profile: what the sentence says.
        hardware: the machine that trains, and serves too unless the sentence says edge.
        constraints: what else the choice must keep to.
        models: to choose from; the whole catalogue when None.
        depth: how many of the first must be right; those behind them may be left out.
    """
    need = need_of(profile, constraints)
    box = edge_box(profile) if need.edge else None
    universe = catalog() if models is None else models
    place = place_of(hardware, constraints, box)
    ranked: list[Candidate] = []
    filtered: list[Candidate] = []
    every = weighed(need, universe)
    for one in every.possible:
        if len(ranked) >= depth and one.score < ranked[depth - 1].score:
            break  # the machine only takes points away: none that follows can come among the first any more
        found = _placed(one, place)
        if found.why_not:
            filtered.append(found)
        else:
            insort(ranked, found, key=_rank)
    if "out" not in every.known:
        every.known["out"] = tuple(Candidate(facts=one.facts, why_not=one.out) for one in every.out)
    return Recommendation(need=need, ranked=tuple(ranked), filtered=(*filtered, *every.known["out"]), edge=box)


def edge_format(box: EdgeBox) -> tuple[str, Reason, tuple[tuple[str, Reason], ...]]:
    """Which 4-bit format the edge box runs: a decision with its why-not.

    Returns:
        `gguf` (Q4_K_M, served by llama.cpp) or `gptq` (W4A16, served by vLLM), the reason, and the alternatives.
    """
    least = float(table("recommend")["edge"]["gptq_memory_gib"])
    memory = f"{box.memory_bytes / GIB:g}"
    if box.cuda and box.memory_bytes >= least * GIB:
        reason = Reason.of("edge_gptq", box=box.id, memory=memory, least=f"{least:g}")
        return "gptq", reason, (("gguf", Reason.of("edge_not_gguf")),)
    why_not = Reason.of("edge_not_gptq_memory" if box.cuda else "edge_not_gptq_cuda", memory=memory, least=f"{least:g}")
    return "gguf", Reason.of("edge_gguf", box=box.id), (("gptq", why_not),)


def fits_on(facts: ModelFacts, device: Device, length: int = 512) -> dict[str, Any]:
    """Whether a model trains and serves on a device, for a list of models.

    Returns:
        fits, method (lora or qlora, empty when neither fits), train_gib by method, serve_bits, serve_gib.
    """
    place = Place(device, Constraints(length=length, named=True))
    if not facts.parameters:
        return {"fits": None, "method": "", "train_gib": {}, "serve_bits": 0, "serve_gib": 0.0}
    needs = wants(facts, place)
    how, _ = needs.first(place.room, float("inf"))
    bits = next((bits for (bits, _), need in needs.serve.items() if need <= place.room), 0)
    return {
        "fits": bool(how and bits),
        "method": how.method if how else "",
        "train_gib": {how.method: round(needs.train(how) / GIB, 2) for how in needs.ways},
        "serve_bits": bits,
        "serve_gib": round(needs.serve[bits, 1] / GIB, 2) if bits else 0.0,
    }


def best_of(
    profile: TaskProfile, hardware: HardwareProfile, constraints: Constraints, models: Sequence[ModelFacts]
) -> ModelFacts | None:
    """The model that `recommend` puts first, without a word about it or the others; its arguments are the same."""
    need = need_of(profile, constraints)
    place = place_of(hardware, constraints, edge_box(profile) if need.edge else None)
    best: tuple[tuple[float, bool, float, str], ModelFacts] | None = None
    for one in weighed(need, models).possible:
        if best is not None and -one.score > best[0][0]:
            break
        stands = _stands(one, place, _needs(one, place))
        if not isinstance(stands, str):
            rank = (-_score(one, stands, place)[0], *order(one.facts))
            best = (rank, one.facts) if best is None or rank < best[0] else best
    return best[1] if best else None


class _Stand(NamedTuple):
    """How a model is trained, and at how many bits, on how many devices, in how many bytes of each it is served."""

    how: How
    bits: int
    devices: int
    bytes: int


def _needs(one: Weighed, place: Place) -> Wants:
    found = one.known.get(place.key)
    if found is None:
        found = one.known[place.key] = wants(one.facts, place)
    return found


def _stands(one: Weighed, place: Place, needs: Wants) -> _Stand | str:
    """How a model is trained and served here, or what is in its way: memory, length, serving, slow or a box's code."""
    room = place.room
    how, soon = needs.first(room, place.seconds)
    if how is None:
        return "memory"
    longest = _longest(one, place)
    if longest > place.constraints.length and needs.least(longest) > room:
        return "length"
    served = _serving(one, place, needs)
    if served is None:
        return "serving"
    if not soon and not place.spared(one.facts):
        return "slow"
    return _Stand(how, *served)


def _score(one: Weighed, stands: _Stand, place: Place) -> tuple[float, tuple[Part, ...]]:
    """The score, less what squeezing costs."""
    plain = 4 if place.box else 8 if place.device.kind == "cpu" else 16
    if stands.how.method == "lora" and stands.bits >= plain:
        return one.score, one.parts
    points = float(table("recommend")["points"]["squeezed"])
    code = "squeezed_train" if stands.how.method != "lora" else "squeezed_serve"
    return round(one.score + points, 4), (*one.parts, Part("squeezed", points, Reason.of(code, bits=stands.bits)))


def _placed(one: Weighed, place: Place) -> Candidate:
    """Memory for training, memory for serving, time; and the points that squeezing costs."""
    needs = _needs(one, place)
    stands = _stands(one, place, needs)
    if isinstance(stands, str):
        return Candidate(facts=one.facts, score=one.score, parts=one.parts, why_not=_why_not(stands, one, place, needs))
    how = stands.how
    score, parts = _score(one, stands, place)
    return Candidate(
        facts=one.facts,
        score=score,
        parts=parts,
        method=how.method,
        devices=how.devices,
        serve_bits=stands.bits,
        serve_devices=stands.devices,
        train_bytes=needs.train(how),
        serve_bytes=stands.bytes,
        seconds=round(needs.seconds(how), 1),
        fetch_seconds=round(needs.fetch, 1),
        start_seconds=round(needs.start, 1),
        tokens_per_second=round(needs.rate(how), 1),
    )


def _why_not(code: str, one: Weighed, place: Place, needs: Wants) -> Reason:
    room, limit = place.room, place.seconds
    if code == "memory":
        return _too_large(needs.smallest(room), place)
    if code == "length":
        return _too_large(needs.least(_longest(one, place)), place)
    if code == "slow":
        return Reason.of("out_slow", minutes=f"{needs.soonest(room) / 60:.0f}", most=f"{limit / 60:.0f}")
    if place.box is not None:
        return _edge(one.facts, place.box)[1] or Reason.of("out_size")
    last = [key for key in needs.serve if _offered(key[0], place)][-1]
    return Reason.of("out_serving", need=_gib(needs.serve[last]), room=_gib(room), bits=last[0])


def _longest(one: Weighed, place: Place) -> int:
    return min(place.constraints.longest, one.facts.context or place.constraints.longest)


def _too_large(need: float, place: Place) -> Reason:
    if place.devices > 1:
        return Reason.of("out_memory_each", need=_gib(need), room=_gib(place.room), devices=place.devices)
    return Reason.of("out_memory", need=_gib(need), room=_gib(place.room))


def _serving(one: Weighed, place: Place, needs: Wants) -> tuple[int, int, int] | None:
    """Bits, devices and bytes of each at which it is served; None where it cannot be."""
    if place.box is not None:
        known = one.known.get(place.box.id) or one.known.setdefault(place.box.id, _edge(one.facts, place.box))
        need, why_not = known
        return None if why_not else (4, 1, need)
    for (bits, devices), need in needs.serve.items():
        if need <= place.room and _offered(bits, place):
            return bits, devices, need
    return None


def _offered(bits: int, place: Place) -> bool:
    """4 bits lose more than the next smaller model does: they are for the edge, and for a model that the user named."""
    return bits > 4 or place.constraints.named


def _edge(facts: ModelFacts, box: EdgeBox) -> tuple[int, Reason | None]:
    rules, length = table("recommend")["edge"], int(table("recommend")["serving"]["context"])
    need = serving_memory(shape_of(facts), length=length, quant=SERVED[4], device="cpu").total_bytes
    room = box.memory_bytes * box.usable
    if need > room:
        return need, Reason.of("out_edge_memory", need=_gib(need), room=_gib(room), box=box.id)
    read = (facts.active or facts.parameters) * BYTES_A_WEIGHT[SERVED[4]]
    speed = box.bandwidth * 1e9 * float(rules["efficiency"]) / read
    if speed < float(rules["tokens_per_second"]):
        return need, Reason.of("out_edge_slow", speed=f"{speed:.1f}", least=rules["tokens_per_second"], box=box.id)
    return need, None


def _gib(amount: float) -> str:
    return f"{amount / GIB:.1f}"


def _rank(one: Candidate) -> tuple[float, bool, float, str]:
    return -one.score, *order(one.facts)


def _weight(part: Part) -> tuple[bool, float]:
    return part.name != "ability", -abs(part.points)
