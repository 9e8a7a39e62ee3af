"""What the rules and the lexicon say about each fact: weights by value, and the words behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from autoswift.understand import hints, lexicon, setting
from autoswift.understand.setting import FUNCTIONS, Hit

FACTS = ("domain", "goal", "modality", "deploy")
DEFAULTS = {"domain": "general", "goal": "chat", "modality": "text", "deploy": "none"}
"""What a sentence that says nothing of a fact most likely wants."""
FUNCTION_BONUS = 1.5
"""What a model does outweighs a topic ("translate medical papers"): no other fact records it, while classifying and
extracting are recorded as the goal. One named function (3) must outvote one named topic with a typical word beside it
(3 + 0.6 x 2)."""
NAMED_WORD = 3.0
"""Weight of one word that names its value: the bonus is for a function that is named, not for a hint at one."""
PARTICULAR = 2.0
"""Weight of a particular goal from which the general one is silent: it says more than "chatbot" beside it does."""
TECHNIQUES, TECHNIQUE_BONUS = frozenset({"preference", "continued_pretraining", "embedding", "reranking"}), 1.3
"""Goals that name how is trained outweigh those that name what for: "preference pairs of solved math problems"."""
OTHER_CLAUSE = 0.4
"""Of a goal's word outside the clause that is called the main thing: alone (3) it falls below `PARTICULAR`."""
ALREADY_TEXT = 4.0
"""As much as the nearest examples can say against it."""
DECOY = 2.0
"""Of text, where a word only looks like another modality ("短视频脚本", "video game")."""
CHAT_AT_MOST = 3.0
"""Many words of conversation say it no more than one."""


@dataclass(frozen=True, slots=True)
class Votes:
    """Weights by value, and the words that they come from."""

    weights: dict[str, float] = field(default_factory=dict)
    found: tuple[Hit, ...] = ()

    def words(self, value: str) -> str:
        """The distinct words that speak for a value, in the order of the sentence."""
        spoken = sorted((h for h in self.found if h.value == value and not h.negated and h.weight > 0), key=_start)
        return ", ".join(dict.fromkeys(h.word for h in spoken))


def _start(hit: Hit) -> int:
    return hit.start


def votes(plain: str) -> dict[str, Votes]:
    """Of a normalised sentence, by fact."""
    return {"domain": _domain(plain), "goal": _goal(plain), "modality": _modality(plain), "deploy": _deploy(plain)}


def domain_scores(found: Iterable[Hit]) -> dict[str, float]:
    """Weight by domain, functions raised over topics."""
    return {
        d: w * (FUNCTION_BONUS if d in FUNCTIONS and w >= NAMED_WORD else 1) for d, w in lexicon.scores(found).items()
    }


def _domain(plain: str) -> Votes:
    found = lexicon.hits(plain, "domain")
    return Votes(domain_scores(found), tuple(found))


def _goal(plain: str) -> Votes:
    marks = setting.emphasis(plain)
    found = tuple(_stressed(h, marks) for h in lexicon.hits(plain, "goal"))
    weights = lexicon.scores(found)
    chat = min(weights.pop("chat", 0.0), CHAT_AT_MOST)
    weights = {g: w * (TECHNIQUE_BONUS if g in TECHNIQUES else 1) for g, w in weights.items()}
    if chat and not any(w >= PARTICULAR for w in weights.values()):
        weights["chat"] = chat
    return Votes(weights, found)


def _stressed(hit: Hit, marks: Sequence[tuple[int, int, float]]) -> Hit:
    """A word weighed by whether its clause is the main one; with a main clause, the others count half as one."""
    inside = [factor for start, end, factor in marks if start <= hit.start < end]
    if inside:
        return replace(hit, weight=hit.weight * min(inside))
    main = any(factor > 1 for _, _, factor in marks)
    return replace(hit, weight=hit.weight * OTHER_CLAUSE) if main else hit


def _modality(plain: str) -> Votes:
    found = lexicon.hits(plain, "modality")
    weights = lexicon.scores(found)
    if any(h.weight == 0 for h in found):  # a recording that has been written down
        weights["text"] = weights.get("text", 0.0) + ALREADY_TEXT
    elif lexicon.decoyed(plain, "modality"):
        weights["text"] = weights.get("text", 0.0) + DECOY
    return Votes(weights, tuple(found))


def _deploy(plain: str) -> Votes:
    """Only a place to serve counts; a card or a cloud to train on does not, nor one that is asked about."""
    found = [
        h for h in lexicon.hits(plain, "deploy") if not setting.is_subject(plain, h.start, h.end) and _serves(plain, h)
    ]
    weights = {value: max(w, 2.0) for value, w in lexicon.scores(found).items()}
    if "k8s" in weights:  # "on Kubernetes in the cloud": the cluster is what the files are made for
        weights["k8s"] += weights.pop("cloud", 0.0)
    return Votes(weights, tuple(found))


def _serves(plain: str, h: Hit) -> bool:
    if setting.group("setting", "only_serves").match(h.word):
        return True  # nobody trains there, whatever verb stands near
    return (h.weight >= 3 and not _trained_there(plain, h)) or hints.runs_on(plain, h.start, h.end)


def _trained_there(plain: str, h: Hit) -> bool:
    """Whether the nearest verb says that the place is for training."""
    train, serve = (hints.gap(plain, h.start, h.end, setting.group(name)) for name in ("training", "serving"))
    return train is not None and train <= 4 and (serve is None or train < serve)
