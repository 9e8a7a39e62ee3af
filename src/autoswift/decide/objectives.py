"""What the search weighs: quality alone, or latency and size beside it where the user asks for them."""

from __future__ import annotations

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.errors import InputError
from autoswift.tables import explain

QUALITY = "quality"
KNOWN = (QUALITY, "latency", "size")


def objectives_for(inputs: Inputs, book: Book) -> tuple[str, ...]:
    """Quality first, then the others in a fixed order, so that the same wish is the same plan.

    A wish for low latency in the sentence counts as asked for; `objectives` among the options says it outright.

    Raises:
        InputError: when the user names one that there is not.
    """
    spoken = "latency" in inputs.profile.constraints
    ours = f"{QUALITY},latency" if spoken else QUALITY
    several = spoken or _several(str(inputs.task.options.get("objectives", "")))
    # Said of the user's wish too: what they get for it depends on what can be traded.
    notes = [book.say("objectives.same_base"), book.say("objectives.way")] if several and not book.silent else []
    because = book.say("objectives.spoken" if spoken else "objectives.one")
    others = [] if several or book.silent else [("quality,latency,size", book.say("objectives.not_asked"))]
    given = str(book.add("objectives", ours, because, evidence=notes, alternatives=others))
    wanted = {word.strip() for word in given.split(",") if word.strip()} | {QUALITY}
    unknown = sorted(wanted - set(KNOWN))
    if unknown:
        raise InputError(*explain("decide.objectives", name=unknown[0], names=", ".join(KNOWN)))
    return tuple(name for name in KNOWN if name in wanted)


def _several(given: str) -> bool:
    return bool({word.strip() for word in given.split(",")} - {"", QUALITY})
