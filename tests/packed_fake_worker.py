"""A worker of packed trials without a model: the protocol, and what can go wrong in it, by `behaviour.json`.

behaviour.json in the model's folder: step_seconds; refuse: reason; garbage_at, die_at, hang_at, halve_at: step of trial
`victim` at which that happens (die_times: in so many workers, counted in a file beside it); exit_words: on stderr.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any


def say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")
    sys.stdout.flush()


class Fake:
    def __init__(self, opened: dict[str, Any]) -> None:
        folder = Path(opened["model"])
        self.opened, self.count = opened, folder / "deaths"
        self.how = json.loads((folder / "behaviour.json").read_text()) if (folder / "behaviour.json").exists() else {}
        self.trials: dict[int, dict[str, Any]] = {}
        self.most = opened["max_trials"]
        with (folder / "opens.jsonl").open("a") as file:
            file.write(json.dumps(opened | {"pid": os.getpid()}) + "\n")
        if self.how.get("refuse"):
            say("refused", reason=self.how["refuse"], text="not of the usual kind")
        else:
            say("opened", seconds=0.1, parameters=1)

    def submit(self, asked: dict[str, Any]) -> None:
        if asked["trial"] == self.how.get("refuse_trial"):
            say("failed", trial=asked["trial"], symptom="packing_refused", text="not this one")
            return
        begin = asked["from_checkpoint"]
        step = json.loads((Path(begin) / "packed_state.json").read_text())["step"] if begin else 0
        self.trials[asked["trial"]] = asked | {"step": step}
        say(
            "started", trial=asked["trial"], step=step, total_steps=asked["settings"]["max_steps"], seconds_to_start=0.0
        )

    def save(self, one: dict[str, Any]) -> None:
        place = Path(one["folder"]) / f"checkpoint-{one['step']}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "adapter_model.safetensors").write_bytes(b"weights")
        (place / "packed_state.json").write_text(json.dumps({"step": one["step"]}))
        say("saved", trial=one["trial"], step=one["step"], checkpoint=str(place))

    def end(self, one: dict[str, Any]) -> None:
        number = one["trial"]
        self.save(one)
        if one["evaluate_rows"]:
            answers = [{"text": "hello", "tokens": 1, "stopped": True, "seconds": 0.1}] * one["evaluate_rows"]
            metrics = {"nll": 1.0, "latency_seconds": 0.1}
            say("evaluated", trial=number, step=one["step"], final=True, metrics=metrics, answers=answers)
        say("finished", trial=number, step=one["step"])
        del self.trials[number]

    def step(self) -> None:
        for one in list(self.trials.values())[: self.most]:
            one["step"] += 1
            metrics = {"loss": 2.0 / one["step"], "tokens": 100 * one["step"], "memory_bytes": 1}
            self.trouble(one)
            say(
                "progress",
                trial=one["trial"],
                step=one["step"],
                total_steps=one["settings"]["max_steps"],
                metrics=metrics,
            )
            late = one["deadline"] is not None and time.time() > one["deadline"] - one["evaluate_seconds"]
            if late:
                say("stopping", trial=one["trial"], step=one["step"], reason="deadline")
            if late or one.get("stopped") or one["step"] >= one["settings"]["max_steps"]:
                self.end(one)

    def trouble(self, one: dict[str, Any]) -> None:
        how = self.how
        if one["trial"] != how.get("victim", 1):
            return
        if one["step"] == how.get("halve_at") and self.most > 1:
            self.most //= 2
            say("capacity", trials=self.most, reason="out of memory")
        if one["step"] == how.get("fail_at"):
            say("failed", trial=one["trial"], symptom="nan", text="not a number")
            self.trials.pop(one["trial"])
        if one["step"] == how.get("garbage_at"):
            sys.stdout.write("Loading checkpoint shards: 100%\n")
            sys.stdout.flush()
        if one["step"] == how.get("hang_at"):
            signal.pause()
        if one["step"] == how.get("die_at"):
            died = int(self.count.read_text()) if self.count.exists() else 0
            if died < how.get("die_times", 1):
                self.count.write_text(str(died + 1))
                sys.stderr.write(how.get("exit_words", "") + "\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGKILL if not how.get("exit_words") else signal.SIGTERM)


def main() -> None:
    fake: Fake | None = None
    buffer = b""
    while True:
        wait = (fake.how.get("step_seconds", 0.01) if fake.trials else None) if fake else None
        ready, _, _ = select.select([0], [], [], wait)
        if ready:
            part = os.read(0, 65536)
            if not part:
                return
            *lines, buffer = (buffer + part).split(b"\n")
            for asked in map(json.loads, lines):
                if asked["do"] == "open":
                    fake = Fake(asked)
                elif fake and asked["do"] == "submit":
                    fake.submit(asked)
                elif fake and asked["do"] == "stop" and asked["trial"] in fake.trials:
                    fake.trials[asked["trial"]]["stopped"] = True
                    say("stopping", trial=asked["trial"], step=0, reason="stop")
                elif fake and asked["do"] == "checkpoint" and asked["trial"] in fake.trials:
                    fake.save(fake.trials[asked["trial"]])
        elif fake:
            fake.step()


if __name__ == "__main__":
    main()
