"""A small training in torch, killed at random moments and gone on with; run as a program, it prints what it saw.

`python torch_loop.py FOLDER KILLS SEED`. Forks of this process train, so that a start costs milliseconds and a hundred
kills fit into a minute; the checkpoints are several files written one after the other, as a trainer writes them, and
this process seals and chooses them by the same code as for every other training.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from autoswift.run.manifest import flaw, newest_whole, write_manifest

STEPS, EVERY = 60, 5


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 32)
        self.mix = torch.nn.GRU(32, 48, batch_first=True)
        self.drop = torch.nn.Dropout(0.1)  # so that the random state has to be right too
        self.head = torch.nn.Linear(48, 50)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.mix(self.embed(rows[:, :-1]))
        logits = self.head(self.drop(hidden))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def train(folder: Path, begin: Path | None) -> None:
    """From a checkpoint or from the start, to the end; each step's loss and each checkpoint is a line."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    order = torch.Generator().manual_seed(1)
    step = 0
    if begin is not None:
        model.load_state_dict(torch.load(begin / "model.pt", weights_only=True))
        kept = torch.load(begin / "optimizer.pt", weights_only=True)
        optimizer.load_state_dict(kept["optimizer"])
        rate.load_state_dict(kept["rate"])
        states = torch.load(begin / "rng.pt", weights_only=True)
        torch.set_rng_state(states["torch"])
        order.set_state(states["order"])
        step = json.loads((begin / "trainer_state.json").read_text(encoding="utf-8"))["step"]
    with (folder / "channel.jsonl").open("ab", buffering=0) as channel:
        while step < STEPS:
            step += 1
            loss = model(torch.randint(0, 50, (8, 17), generator=order))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            channel.write(json.dumps({"step": step, "loss": loss.item()}).encode() + b"\n")
            if step % EVERY == 0:
                place = folder / f"checkpoint-{step}"
                save(place, model, {"optimizer": optimizer.state_dict(), "rate": rate.state_dict()}, order, step)
                channel.write(json.dumps({"saved": str(place)}).encode() + b"\n")


def save(place: Path, model: Model, state: dict[str, Any], order: torch.Generator, step: int) -> None:
    place.mkdir(exist_ok=True)
    torch.save(model.state_dict(), place / "model.pt")
    time.sleep(0.06)  # a real checkpoint takes its time: kills must land in it too
    torch.save(state, place / "optimizer.pt")
    time.sleep(0.06)
    torch.save({"torch": torch.get_rng_state(), "order": order.get_state()}, place / "rng.pt")
    (place / "trainer_state.json").write_text(json.dumps({"step": step}), encoding="utf-8")


class Watcher:
    """The control process: reads the lines, seals checkpoints, kills."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.offset = folder, 0
        self.curve: dict[int, float] = {}
        self.again: list[float] = []
        self.seen = {"kills": 0, "in_a_step": 0, "in_a_checkpoint": 0, "resumed": 0, "from_the_start": 0}

    def attempt(self, seconds: float) -> bool:
        """One fork; whether it came to its end."""
        begin, torn = newest_whole(self.folder.glob("checkpoint-*"))
        for path in torn:  # as a trainer would find it otherwise
            shutil.rmtree(path)
        if self.seen["kills"]:
            self.seen["resumed" if begin else "from_the_start"] += 1
        pid = os.fork()
        if pid == 0:
            try:
                train(self.folder, begin)
            finally:
                os._exit(0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read()
            if os.waitpid(pid, os.WNOHANG)[0]:
                self.read()
                return True
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.seen["kills"] += 1
        unfinished = [path for path in self.folder.glob("checkpoint-*") if flaw(path)]
        self.seen["in_a_checkpoint" if unfinished else "in_a_step"] += 1
        self.read(seal=False)
        return False

    def read(self, *, seal: bool = True) -> None:
        path = self.folder / "channel.jsonl"
        data = path.read_bytes()[self.offset :] if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        self.offset += whole
        for line in data[:whole].splitlines():
            row = json.loads(line)
            if "saved" in row:
                if seal:
                    write_manifest(Path(row["saved"]))
                continue
            before = self.curve.setdefault(row["step"], row["loss"])
            self.again.append(abs(before - row["loss"]))


def main(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    (folder / "warm").mkdir(parents=True)
    train(folder / "warm", None)  # torch imports half of itself at the first step; forks have it then
    whole = Watcher(folder / "whole")
    whole.folder.mkdir(parents=True)
    start = time.monotonic()
    assert whole.attempt(600.0)
    length, largest, runs = time.monotonic() - start, 0.0, 0
    total = dict.fromkeys(whole.seen, 0)
    while total["kills"] < kills:
        one = Watcher(folder / f"run-{runs}")
        one.folder.mkdir()
        mine = min(rng.randint(2, 8), kills - total["kills"])
        while not one.attempt(rng.uniform(0.0, 0.6 * length) if one.seen["kills"] < mine else 600.0):
            pass
        assert sorted(one.curve) == list(range(1, STEPS + 1)), "a step is missing"
        largest = max([largest, *one.again, *(abs(one.curve[n] - whole.curve[n]) for n in whole.curve)])
        total = {name: number + one.seen[name] for name, number in total.items()}
        runs += 1
    print(json.dumps(total | {"runs": runs, "largest_difference": largest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
