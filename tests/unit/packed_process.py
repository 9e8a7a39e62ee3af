"""The packed worker as a process, and `swift sft` with the same arguments."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import support

WORKER = support.ROOT / "src" / "autoswift" / "engines" / "children" / "packed_worker.py"

QUIET = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 10,
    "seed": 7,
    "optimizer": "adamw_torch",
    "max_length": 256,
}


def rows(path: Path, first: int, count: int) -> Path:
    found = json.loads(support.EXAMPLE.read_text(encoding="utf-8"))[first : first + count]
    path.write_text(
        "".join(json.dumps({"messages": r["messages"]}, ensure_ascii=False) + "\n" for r in found), encoding="utf-8"
    )
    return path


def arguments(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """As `engines.arguments` makes them."""
    named = {key: settings[key] for key in SETTINGS if key != "optimizer"}
    return named | {
        "model": str(support.tiny_model()),
        "model_type": "llama",
        "template": "chatml",
        "dataset": str(rows(folder / "train.jsonl", 0, 24)),
        "output_dir": str(folder / "swift"),
        "add_version": "false",
        "check_model": "false",
        "torch_dtype": "float32",
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "gradient_checkpointing": "false",
        "optim": settings["optimizer"],
        "data_seed": settings["seed"],
        "split_dataset_ratio": 0,
        "save_strategy": "steps",
        "save_steps": settings["max_steps"],
        "logging_steps": 1,
        "dataset_num_proc": 1,
        "load_from_cache_file": "false",
        "lazy_tokenize": "false",
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": "false",
        "report_to": "none",
    }


def swift(folder: Path, settings: dict[str, Any], more: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of logging.jsonl of a real `swift sft`."""
    pairs = arguments(folder, settings) | more
    argv = [sys.executable, "-m", "swift.cli.sft", *(w for k, v in pairs.items() for w in (f"--{k}", str(v)))]
    done = subprocess.run(argv, env=QUIET, cwd=folder, capture_output=True, text=True, timeout=700, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return support.lines(folder / "swift" / "logging.jsonl")


class Process:
    """Commands in, events out."""

    def __init__(self, folder: Path) -> None:
        self.log = (folder / "worker.log").open("ab")
        self.child = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=QUIET,
            cwd=folder,
            text=True,
        )
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        self.taken: set[int] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.put(json.loads(line))

    def say(self, **command: Any) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()

    def wait(self, event: str, trial: int | None = None, seconds: float = 120) -> dict[str, Any]:
        """The first event of this kind (of this trial) that nobody has waited for; all that came is in `seen`."""
        end = time.monotonic() + seconds
        place = 0
        while time.monotonic() < end:
            while place < len(self.seen):
                line = self.seen[place]
                if place not in self.taken and line["event"] == event and trial in (None, line.get("trial")):
                    self.taken.add(place)
                    return line
                place += 1
            try:
                self.seen.append(self.lines.get(timeout=0.2))
            except queue.Empty:
                if self.child.poll() is not None and self.lines.empty():
                    raise RuntimeError(f"the worker ended with {self.child.returncode}") from None
        raise TimeoutError(f"no {event} of {trial} in {seconds} s; the last: {self.seen[-3:]}")

    def open(self, folder: Path, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
        named = arguments(folder, settings)
        self.say(
            do="open",
            model=named["model"],
            model_type="llama",
            template="chatml",
            torch_dtype="float32",
            device="cpu",
            threads=1,
            train=named["dataset"],
            arguments={key: str(value) for key, value in named.items()},
            **({"max_trials": 4, "validation": str(rows(folder / "answered.jsonl", 100, 6))} | more),
        )
        return self.wait("opened")

    def submit(self, number: int, folder: Path, settings: dict[str, Any], **more: Any) -> None:
        self.say(do="submit", trial=number, attempt=1, settings=settings, folder=str(folder), **more)

    def of(self, trial: int, event: str) -> list[dict[str, Any]]:
        return [line for line in self.seen if line["event"] == event and line.get("trial") == trial]

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None:
                stream.close()
        self.log.close()


def ask(
    folder: Path, model: Path, adapters: dict[int, str], asked: list[dict[str, Any]], tokens: int = 12
) -> dict[int, dict[str, Any]]:
    """Answers and mean negative log-likelihood of adapters, by the plain worker and swift's own loader."""
    plain = WORKER.with_name("worker.py")
    requests = []
    for adapter in adapters.values():
        load = {"do": "load", "model": str(model), "adapter": adapter, "model_type": "llama", "template": "chatml"}
        requests += [load | {"dtype": "float32"}, {"do": "generate", "rows": asked, "max_new_tokens": tokens}]
        requests.append({"do": "score", "rows": asked})
    text = "".join(json.dumps(request | {"id": n}) + "\n" for n, request in enumerate(requests))
    argv = [sys.executable, str(plain)]
    done = subprocess.run(
        argv, input=text, env=QUIET, cwd=folder, capture_output=True, text=True, timeout=250, check=True
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(reply["ok"] for reply in replies), replies
    found = {}
    for place, number in enumerate(adapters):
        scored = replies[3 * place + 2]["result"]["rows"]
        found[number] = {
            "answers": [answer["text"] for answer in replies[3 * place + 1]["result"]["answers"]],
            "nll": sum(row["nll_sum"] for row in scored) / sum(row["tokens"] for row in scored),
        }
    return found
