"""How trials share the machine, and which of them are short first."""

from __future__ import annotations

import math

from autoswift.decide.book import Book
from autoswift.decide.executor import asks_for_cluster
from autoswift.decide.inputs import Inputs
from autoswift.decide.schedule import Schedule
from autoswift.domain.profile import Device
from autoswift.tables import table


def like(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """The devices that a plan for the first one fits too: of its kind and name, with at least as much free memory.

    A tenth less is the same: other processes' contexts differ by a few hundred MB.
    """
    first = devices[0]
    least = 0.9 * first.free_bytes
    return tuple(d for d in devices if (d.kind, d.name) == (first.kind, first.name) and d.free_bytes >= least)


def lanes_for(inputs: Inputs, devices: int, book: Book) -> int:
    """Trials at once: as many as the machine has groups of devices, at most as many as there are trials.

    Args:
        inputs: of the plan. devices: that one training takes.
    """
    alike = len(like(inputs.hardware.devices))
    cluster = asks_for_cluster(inputs.task.options)
    if alike < 2 and not cluster:
        return 1
    wanted = max(1, min(alike // max(1, devices), inputs.task.budget.trials))
    key = "cluster" if cluster else "one" if wanted == 1 else "several"
    words = book.say(f"parallel_trials.{key}", devices=alike, each=devices, trials=inputs.task.budget.trials)
    return max(1, int(book.add("parallel_trials", wanted, words, levers=("task.budget.trials",))))


def rungs_for(inputs: Inputs, times: Schedule, row_tokens: float, rate: float, book: Book) -> tuple[int, ...]:
    """Tokens at which short trials end, ascending, the whole trial last; empty where all are trained in full.

    Args:
        inputs: of the plan. times: trials and their tokens.
        row_tokens: of a training row. rate: tokens a second.
    """
    rules = table("rules")["rungs"]
    fixed = inputs.task.options.keys() & {"epochs", "trial_tokens", "final_tokens"}
    shares = [float(share) for share in rules["beyond" if times.promote and not fixed else "within"]]
    overhead, updates = times.start_seconds + times.answer_seconds, int(rules["least_updates"])
    shortest = times.trial_tokens * shares[0]
    levels, why = 1, "few"
    if times.trials >= int(rules["least_trials"]):
        if shortest / row_tokens / times.batch < updates:
            why = "short"
        elif overhead > float(rules["overhead_share"]) * shortest / rate:
            why = "overhead"
        else:
            levels, why = len(shares), "yes"
    named = {"trials": times.trials, "least": int(rules["least_trials"]), "updates": updates}
    words = book.say(f"rungs.{why}", seconds=f"{overhead:.0f}", last=f"{shares[-1]:.2g}", **named)
    levels = int(book.add("rungs", levels, words, levers=("task.budget.trials", "task.budget.hours")))
    if levels <= 1:
        return ()
    return tuple(max(1, round(times.trial_tokens * share)) for share in shares[:levels])


def search_seconds(times: Schedule, rungs: tuple[int, ...], rate: float, lanes: int) -> float:
    """Seconds of the search: every trial at the first rung, and as if one of them went on to the last.

    A continued trial repeats the cool-down of the rung before, a fifth of it.
    """
    overhead = times.start_seconds + times.answer_seconds
    if not rungs:
        return math.ceil(times.trials / lanes) * (overhead + times.trial_tokens / rate)
    total, before, waves = 0.0, 0.0, math.ceil(times.trials / lanes)
    for tokens in rungs:
        total += waves * (overhead + (tokens - 0.8 * before) / rate)
        before, waves = float(tokens), 1
    return total
