"""What the end-to-end and fault tests share: a tiny model, a small file of dialogues, the command line in a child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "customer_chat.json"
SENTENCE = "让客服机器人学会处理退货咨询"
TINY = ROOT / "src" / "autoswift" / "testing" / "tiny_child.py"

# Small samples: what is tested is the way through, not how good the tiny model gets.
SMALL = [
    *("--set", "trial_tokens=2400", "--set", "final_tokens=4800"),
    *("--set", "max_new_tokens=16", "--set", "validation_rows=4", "--set", "test_rows=8"),
]


def tiny_model() -> Path:
    """A llama of 3 million weights, trained a little on the example; kept between sessions.

    By steps, not by seconds: a busy machine would make a weaker model, on which other tests would then fail.
    """
    training = ("--steps", "120", "--seconds", "0")
    made_of = sha256(TINY.read_bytes() + EXAMPLE.read_bytes() + " ".join(training).encode()).hexdigest()[:12]
    folder = ROOT / ".cache" / "tests" / f"tiny-{made_of}"
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        text = folder.with_suffix(".jsonl")
        rows = json.loads(EXAMPLE.read_text(encoding="utf-8"))[:200]
        text.write_text("".join(json.dumps({"messages": r["messages"]}) + "\n" for r in rows), encoding="utf-8")
        argv = [sys.executable, "-P", str(TINY), str(folder), "--text", str(text), *training]
        subprocess.run(argv, check=True, capture_output=True, timeout=280, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return folder


def small_data(folder: Path, rows: int = 120) -> Path:
    """The first dialogues of the example."""
    path = folder / "chat.json"
    path.write_text(json.dumps(json.loads(EXAMPLE.read_text(encoding="utf-8"))[:rows]), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Cli:
    """The command line with a home of its own."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"AUTOSWIFT_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "LANG": "en_US.UTF-8"}

    def __call__(self, *arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "autoswift", *arguments]
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=timeout, check=False)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "autoswift", *arguments]
        log = (self.home / "owner.log").open("ab")
        with log:
            return subprocess.Popen(argv, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def log(self) -> str:
        path = self.home / "owner.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def trial_lines(run: Path) -> list[dict[str, Any]]:
    """The search's trials and the final training (trial 0)."""
    return lines(run / "trials.jsonl") + lines(run / "training.jsonl")


def wait_for(condition: Callable[[], Any], seconds: float = 120, what: str = "the condition") -> Any:
    """Polls until it holds.

    Raises:
        TimeoutError: when it does not.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{what} did not come in {seconds} s")


def stage_state(run: Path, stage: str) -> str:
    """The newest state of a stage in events.jsonl."""
    states = [e["state"] for e in lines(run / "events.jsonl") if e["kind"] == "stage" and e["stage"] == stage]
    return states[-1] if states else ""


def processes_of(run: Path, word: str = "") -> list[psutil.Process]:
    """Live processes with the run folder (and a word) in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(run) in line and word in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return [p for p in found if p.pid != os.getpid()]
