"""Which base models suit a task on a machine, best first, each with its reasons, and why the others do not.

Filters come first: what the task forbids (`weigh`), then memory for training and for serving, then time. The score does
not depend on the machine but for one part: a model that fits only when squeezed (4-bit training, 8-bit serving) is put
lower. So more memory never gives a choice of lower score.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autoswift.catalog.models import ModelFacts, catalog
from autoswift.decide.need import Constraints, EdgeBox, Need, Reason, edge_box, need_of
from autoswift.decide.weigh import Part, Weighed, order, weighed
from autoswift.domain.plan import Method
from autoswift.domain.profile import GIB, Device, HardwareProfile, TaskProfile
from autoswift.hardware.margins import Margin, margin_for, with_margin
from autoswift.hardware.memory import MemorySettings, peak_memory, weight_bytes
from autoswift.hardware.serving_memory import BYTES_A_WEIGHT, serving_memory
from autoswift.hardware.shape import ModelShape, shape_of
from autoswift.hardware.speed import BYTES_ON_DISK, DOWNLOAD_RATE, start_seconds, training_tokens_per_second
from autoswift.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that can be taken, or one that cannot, with the reason.

    Attributes:
        score: sum of the parts, in points of the ability's test.
        method: lora or qlora: how it can be trained here. serve_bits: 16, 8 or 4: how it can be served.
        train_bytes, serve_bytes: upper bounds of the memory for both. seconds: until one useful training is done.
        fetch_seconds, start_seconds: before the first step. tokens_per_second: of training; 0 when not known.
        why_not: why it is out; None when it is not.
    """

    facts: ModelFacts
    score: float = 0.0
    parts: tuple[Part, ...] = ()
    method: str = ""
    serve_bits: int = 0
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
    place = _Place(hardware.device, constraints, box)
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where it trains and serves."""

    device: Device
    constraints: Constraints
    box: EdgeBox | None

    @property
    def room(self) -> float:
        return self.device.free_bytes * float(table("recommend")["memory_share"])

    @property
    def seconds(self) -> float:
        """That fetching the model and one useful training may take."""
        return self.constraints.seconds * float(table("recommend")["time_share"])

    def spared(self, facts: ModelFacts) -> bool:
        """Whether time may not rule it out: the user named it, or nothing else can be had."""
        here = self.constraints.availability
        alone = here is not None and not (here.huggingface or here.modelscope)
        return self.constraints.named or (bool(facts.packaged) and alone)

    @property
    def key(self) -> tuple[Any, ...]:
        """All that a model's needs depend on but the free memory."""
        device = self.device
        margins = self.constraints.margins
        return (device.kind, device.name, device.bf16, device.tflops, self.constraints.length, margins)


SERVED = {16: "none", 8: "q8_0", 4: "q4_k_m"}
"""Bits a weight as served, and the format that the memory is counted for."""


@dataclass(slots=True)
class _Wants:
    """What a model needs on a kind of device, worked out when asked for.

    Attributes:
        methods: that train there, the plain one first. serve: bytes by bits.
    """

    shape: ModelShape
    settings: MemorySettings
    device: Device
    methods: tuple[Method, ...]
    serve: dict[int, int]
    fetch: float
    start: float
    margins: tuple[Margin, ...] = ()
    known: dict[tuple[str, Method], float] = field(default_factory=dict)
    base: dict[Method, int] = field(default_factory=dict)
    long: dict[int, int] = field(default_factory=dict)

    def train(self, method: Method) -> int:
        """Upper bound of the bytes that training takes."""
        key = ("bytes", method)
        if key not in self.known:
            self.known[key] = self._high(method, self.settings)
        return int(self.known[key])

    def _high(self, method: Method, settings: MemorySettings) -> int:
        margin = margin_for(self.margins, self.shape.family, method)
        return with_margin(peak_memory(self.shape, method, settings), margin.factor if margin else 1.0).high

    def least(self, length: int) -> int:
        """Upper bound of the bytes that training on one row of a length takes at least, by whatever method."""
        if length not in self.long:
            settings = replace(self.settings, length=length, rank=max(table("rules")["lora"]["ranks"]))
            self.long[length] = min(self._high(method, settings) for method in self.methods)
        return self.long[length]

    def weights(self, method: Method) -> int:
        """Bytes of the base's weights alone: when they do not fit, nothing does."""
        if method not in self.base:
            self.base[method] = weight_bytes(self.shape, method, self.settings.precision)
        return self.base[method]

    def rate(self, method: Method) -> float:
        """Tokens a second that training gets through; 0 where the device's rate is unknown."""
        key = ("rate", method)
        if key not in self.known:
            length = self.settings.length
            self.known[key] = training_tokens_per_second(self.shape, method, self.device, length=length)
        return self.known[key]

    def seconds(self, method: Method) -> float:
        """Until one useful training is done; without the training where the device's rate is unknown."""
        rate = self.rate(method)
        return self.fetch + (self.start + float(table("recommend")["useful_tokens"]) / rate if rate > 0 else 0.0)

    def method(self, room: float) -> Method | None:
        """The first that fits."""
        return next((m for m in self.methods if self.weights(m) <= room and self.train(m) <= room), None)


def fits_on(facts: ModelFacts, device: Device, length: int = 512) -> dict[str, Any]:
    """Whether a model trains and serves on a device, for a list of models.

    Returns:
        fits, method (lora or qlora, empty when neither fits), train_gib by method, serve_bits, serve_gib.
    """
    place = _Place(device, Constraints(length=length, named=True), None)
    if not facts.parameters:
        return {"fits": None, "method": "", "train_gib": {}, "serve_bits": 0, "serve_gib": 0.0}
    wants = _wants(facts, place)
    method = wants.method(place.room) or ""
    bits = next((bits for bits, need in wants.serve.items() if need <= place.room), 0)
    return {
        "fits": bool(method and bits),
        "method": method,
        "train_gib": {name: round(wants.train(name) / GIB, 2) for name in wants.methods},
        "serve_bits": bits,
        "serve_gib": round(wants.serve[bits] / GIB, 2) if bits else 0.0,
    }


def _placed(one: Weighed, place: _Place) -> Candidate:
    """Memory for training, memory for serving, time; and the points that squeezing costs."""
    wants = one.known.get(place.key)
    if wants is None:
        wants = one.known[place.key] = _wants(one.facts, place)
    room = place.room
    method = wants.method(room)
    if method is None:
        # The weights alone say enough where they are too large; else the whole is told.
        last = wants.methods[-1]
        need = wants.weights(last) if wants.weights(last) > room else wants.train(last)
        return _out(one, Reason.of("out_memory", need=_gib(need), room=_gib(room)))
    longest = min(place.constraints.longest, one.facts.context or place.constraints.longest)
    if longest > place.constraints.length and (need := wants.least(longest)) > room:
        return _out(one, Reason.of("out_memory", need=_gib(need), room=_gib(room)))
    bits, serve, why_not = _serving(one, place, wants)
    if why_not is not None:
        return _out(one, why_not)
    seconds, limit = wants.seconds(method), place.seconds
    if seconds > limit and not place.spared(one.facts):
        return _out(one, Reason.of("out_slow", minutes=f"{seconds / 60:.0f}", most=f"{limit / 60:.0f}"))
    score, parts = one.score, one.parts
    plain = 4 if place.box else 8 if place.device.kind == "cpu" else 16
    if method != "lora" or bits < plain:
        points = float(table("recommend")["points"]["squeezed"])
        reason = Reason.of("squeezed_train" if method != "lora" else "squeezed_serve", bits=bits)
        score, parts = round(score + points, 4), (*parts, Part("squeezed", points, reason))
    return Candidate(
        facts=one.facts,
        score=score,
        parts=parts,
        method=method,
        serve_bits=bits,
        train_bytes=wants.train(method),
        serve_bytes=serve,
        seconds=round(seconds, 1),
        fetch_seconds=round(wants.fetch, 1),
        start_seconds=round(wants.start, 1),
        tokens_per_second=round(wants.rate(method), 1),
    )


def _out(one: Weighed, why_not: Reason) -> Candidate:
    return Candidate(facts=one.facts, score=one.score, parts=one.parts, why_not=why_not)


def _serving(one: Weighed, place: _Place, wants: _Wants) -> tuple[int, int, Reason | None]:
    """Bits and bytes at which it is served, or why it cannot be."""
    if place.box is not None:
        return _edge(one.facts, place.box)
    # 4 bits lose more than the next smaller model does: they are for the edge, and for a model that the user named.
    offered = [bits for bits in wants.serve if bits > 4 or place.constraints.named]
    for bits in offered:
        if wants.serve[bits] <= place.room:
            return bits, wants.serve[bits], None
    return 0, 0, Reason.of("out_serving", need=_gib(wants.serve[offered[-1]]), room=_gib(place.room), bits=offered[-1])


def _edge(facts: ModelFacts, box: EdgeBox) -> tuple[int, int, Reason | None]:
    rules, length = table("recommend")["edge"], int(table("recommend")["serving"]["context"])
    need = serving_memory(shape_of(facts), length=length, quant=SERVED[4], device="cpu").total_bytes
    room = box.memory_bytes * box.usable
    if need > room:
        return 4, need, Reason.of("out_edge_memory", need=_gib(need), room=_gib(room), box=box.id)
    read = (facts.active or facts.parameters) * BYTES_A_WEIGHT[SERVED[4]]
    speed = box.bandwidth * 1e9 * float(rules["efficiency"]) / read
    if speed < float(rules["tokens_per_second"]):
        return 4, need, Reason.of("out_edge_slow", speed=f"{speed:.1f}", least=rules["tokens_per_second"], box=box.id)
    return 4, need, None


def _wants(facts: ModelFacts, place: _Place) -> _Wants:
    device, shape, rules = place.device, shape_of(facts), table("recommend")
    precision = "bfloat16" if device.bf16 else "float32" if device.kind == "cpu" else "float16"
    length, cuda = place.constraints.length, device.kind == "cuda"
    settings = MemorySettings(
        length=length, device=device.kind, card=device.name, precision=precision, expandable_segments=cuda
    )
    # bitsandbytes' 4 bits train on NVIDIA cards; elsewhere LoRA at full precision is what there is.
    methods: tuple[Method, ...] = ("lora", "qlora") if cuda else ("lora",)
    serving = rules["serving"]
    serve = {
        bits: serving_memory(
            shape,
            length=int(serving["context"]),
            concurrency=int(serving["parallel"]),
            quant=SERVED[bits],
            device=device.kind,
        ).total_bytes
        for bits in ((8, 4) if device.kind == "cpu" else (16, 8, 4))
    }
    fetch = 0.0 if facts.packaged or facts.path else facts.parameters * BYTES_ON_DISK / DOWNLOAD_RATE
    margins = place.constraints.margins
    return _Wants(shape, settings, device, methods, serve, fetch, start_seconds(shape, device), margins)


def _gib(amount: float) -> str:
    return f"{amount / GIB:.1f}"


def _rank(one: Candidate) -> tuple[float, bool, float, str]:
    return -one.score, *order(one.facts)


def _weight(part: Part) -> tuple[bool, float]:
    return part.name != "ability", -abs(part.points)
