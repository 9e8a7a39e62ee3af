"""Runs Ray Tune for the control process, which keeps the searcher, the budget and the journal.

    python -P ray_driver.py SETTINGS.json

Tune's search algorithm is a proxy here: what it suggests is what the control process has sent. So is its scheduler:
each report goes to the control process, and its verdict is waited for. A trial is one actor, which starts the agent
(`session_agent.py`) as a process group of its own and passes its lines on.

One JSON object a line. To stdin: {do: trial, number, attempt, spec, stop_file, log}, {do: verdict, batch, stop},
{do: kill, number, attempt}, {do: end}. From stdout: {kind: ready | capacity, capacity, nodes}, {kind: placed, number,
attempt, node}, {kind: result, batch, number, attempt, events}, {kind: lost, number, attempt, node_lost, error},
{kind: fatal, error, words}. Nothing is unpickled by us; Ray pickles functions and results between its own processes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

VERDICT_SECONDS = 600.0
"""Longest wait for the control process, which may be fitting its sampler; its end is noticed at once (stdin closes)."""

NODES_SECONDS = 2.0
"""Between two looks at the cluster: a node is known to be lost after some seconds anyway."""

HEARTBEAT_SECONDS = 2.0
"""A step of the trainable returns after this long without a line, so that a verdict reaches it."""

GATHER_SECONDS = 0.05
"""Lines that follow each other this closely go up together."""

JOIN_SECONDS = 300.0
"""How long nodes of a given cluster may take to join: an image of some gigabytes is pulled first."""

AGENT_GRACE_SECONDS = 6.0
"""Between SIGTERM and SIGKILL of an agent: one second more than the keeper's own grace."""


class Link:
    """The lines to and from the control process."""

    def __init__(self, out: int) -> None:
        self.trials: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.ended = threading.Event()
        self.killed: set[tuple[int, int]] = set()
        self._out, self._lock = os.fdopen(out, "w", encoding="utf-8"), threading.Lock()
        self._verdicts: dict[int, bool] = {}
        self._arrived = threading.Condition()
        self._batch = 0
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """One line to the control process; it may be gone."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._out.write(json.dumps(message, allow_nan=False) + "\n")
            self._out.flush()

    def judged(self, message: Mapping[str, Any]) -> bool:
        """Sends a report and waits for its verdict: whether the trial shall stop."""
        self._batch += 1
        batch = self._batch
        self.send({"kind": "result", "batch": batch} | dict(message))
        with self._arrived:
            self._arrived.wait_for(lambda: batch in self._verdicts or self.ended.is_set(), VERDICT_SECONDS)
            return self._verdicts.pop(batch, self.ended.is_set())

    def _read(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            do = message.pop("do")
            if do == "trial":
                self.trials.put(message)
            elif do == "verdict":
                with self._arrived:
                    self._verdicts[int(message["batch"])] = bool(message["stop"])
                    self._arrived.notify_all()
            elif do == "kill":
                self.killed.add((int(message["number"]), int(message["attempt"])))
            elif do == "end":
                break
        with self._arrived:  # the end was asked for, or the control process is gone
            self.ended.set()
            self._arrived.notify_all()
        self.trials.put(None)


LINK: Link | None = None
"""Global, not an attribute: Tune pickles searchers and schedulers."""


def link() -> Link:
    """The one link.

    Raises:
        RuntimeError: in another process than the driver's.
    """
    if LINK is None:
        raise RuntimeError("only the driver talks to the control process")
    return LINK


class ProxySearcher(Searcher):
    """Suggests what the control process has sent; the searcher itself lives there."""

    def __init__(self) -> None:
        super().__init__(metric="number", mode="max")
        self.live = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial that was sent; waits for it only while nothing runs."""
        try:
            one = link().trials.get(timeout=0.0 if self.live else 60.0, block=not self.live)
        except queue.Empty:
            return None
        if one is None:
            return str(Searcher.FINISHED)
        self.live += 1
        return one

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The scheduler has passed it on."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Counts what lives."""
        self.live -= 1

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the truth is in the control process's journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class ProxyScheduler(FIFOScheduler):
    """Lets the control process decide at each report.

    A trial that shall stop gets its stop file, so that it ends at its next step and its checkpoint is kept; STOP is
    what Tune hears when its last line is in, or when the control process has given the trial up.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to prepare."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        config, report = trial.config, json.loads(result["report"])
        who = {"number": config["number"], "attempt": config["attempt"]}
        if (who["number"], who["attempt"]) in link().killed:
            return str(TrialScheduler.STOP)
        if report["first"]:
            link().send({"kind": "placed", "node": report["node"]} | who)
        if report["events"] and link().judged({"events": report["events"]} | who):
            Path(config["stop_file"]).touch()
        return str(TrialScheduler.STOP if report["final"] else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The actor is gone: with its node, or by a fault of its own. The control process decides what follows."""
        words = "the actor is gone"
        with contextlib.suppress(OSError):
            _, _, written = Path(trial.error_file).read_text(encoding="utf-8").partition("\n")  # behind its headline
            words = written.strip()[-2000:] or words
        link().send(
            {
                "kind": "lost",
                "number": trial.config["number"],
                "attempt": trial.config["attempt"],
                # An error that our own code raised comes with the worker's traceback, which begins so.
                "node_lost": "ray::TrialActor" not in words,
                "error": words,
            }
        )


class TrialActor(tune.Trainable):
    """One trial: the agent's process, and its lines as Tune's results. Lives in a Ray worker."""

    def setup(self, config: dict[str, Any]) -> None:
        """Starts the agent on a lifeline: when this worker dies, however it dies, the agent's group ends."""
        self._first, self._final, self._buffer = True, False, b""
        lifeline, self._lifeline = os.pipe()
        log = Path(config["log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(config["environment"])
        devices = ("CUDA_", "NVIDIA_", "ASCEND_", "HIP_", "ROCR_")  # what Ray has given this worker
        environment |= {k: v for k, v in os.environ.items() if k.startswith(devices)}
        try:
            with log.open("ab") as errors:
                self._agent = subprocess.Popen(
                    [config["python"], "-I", "-S", config["keeper"], str(lifeline), "--", *config["argv"]],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    pass_fds=(lifeline,),
                    start_new_session=True,
                )
        finally:
            os.close(lifeline)

    def step(self) -> dict[str, Any]:
        """The agent's lines since the last step.

        Raises:
            RuntimeError: when the agent ended without a last word.
        """
        lines = self._lines()
        self._final = self._final or any(one["kind"] in ("finished", "failed") for one in lines)
        if not self._final and self._agent.poll() is not None:
            lines += self._lines()
            self._final = any(one["kind"] in ("finished", "failed") for one in lines)
            if not self._final:
                raise RuntimeError(f"the trial's agent ended with code {self._agent.returncode}")
        report = {
            "first": self._first,
            "final": self._final,
            "events": lines,
            "node": f"{os.uname().nodename} {ray.get_runtime_context().get_node_id()[:8]}",
        }
        self._first = False
        return {"report": json.dumps(report)}

    def cleanup(self) -> None:
        """Ends the agent and all that it started."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._final:
                self._agent.wait(AGENT_GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._agent.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._agent.wait(AGENT_GRACE_SECONDS)
            os.killpg(self._agent.pid, signal.SIGKILL)
        os.close(self._lifeline)
        self._agent.wait()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: checkpoints are the engine's, in the run folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""

    def _lines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        pipe = self._agent.stdout
        wait = HEARTBEAT_SECONDS
        while pipe is not None and select.select([pipe], [], [], wait)[0]:
            data = os.read(pipe.fileno(), 65536)
            if not data:
                break
            *whole, self._buffer = (self._buffer + data).split(b"\n")
            found += [json.loads(line) for line in whole if line.strip()]
            wait = GATHER_SECONDS
        return found


def capacity(need: Mapping[str, float]) -> tuple[int, list[dict[str, float]]]:
    """How many trials the living nodes hold, each on one node; and what the nodes have."""
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    held = sum(min(math.floor(node.get(k, 0.0) / v + 1e-9) for k, v in need.items() if v > 0) for node in nodes)
    shown = [{k: v for k, v in node.items() if k in need or k in ("CPU", "GPU")} for node in nodes]
    return held, shown


def watch_nodes(need: Mapping[str, float], held: int) -> None:
    """Tells the control process when nodes come or go."""
    while not link().ended.wait(NODES_SECONDS):
        try:
            now, nodes = capacity(need)
        except Exception as exc:
            print(f"nodes could not be listed: {exc}", file=sys.stderr)
            continue
        if now != held:
            held = now
            link().send({"kind": "capacity", "capacity": now, "nodes": nodes})


def connect(settings: Mapping[str, Any]) -> None:
    """Joins the cluster at the address, or starts one for this run alone, on the loopback interface."""
    quiet = {"log_to_driver": False, "logging_level": "warning", "configure_logging": True}
    if settings["address"]:
        ray.init(address=settings["address"], **quiet)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=settings["cpus"],
        object_store_memory=settings["object_store_bytes"],
        _temp_dir=str(Path(settings["temporary"]) / "r"),
        _node_ip_address="127.0.0.1",
        **quiet,
    )


def wait_for_room(settings: Mapping[str, Any]) -> tuple[int, list[dict[str, float]]]:
    """Capacity, as soon as there is any; 0 when no node holds a trial in time. Settles how many cores a trial takes."""
    end = time.monotonic() + (JOIN_SECONDS if settings["address"] else 0.0)
    while True:
        cores = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if set(settings["need"]) == {"CPU"} and cores >= 1:  # threads are a wish; a smaller machine is no hindrance
            settings["need"]["CPU"] = min(settings["need"]["CPU"], cores)
        held, nodes = capacity(settings["need"])
        if held or time.monotonic() > end or link().ended.wait(NODES_SECONDS if settings["address"] else 0.0):
            return held, nodes


def main() -> int:
    """Connects, then runs Tune until the control process wants no more."""
    global LINK
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    LINK = Link(os.dup(1))
    os.dup2(2, 1)  # what Ray prints goes to the log
    try:
        connect(settings)
        held, nodes = wait_for_room(settings)
    except Exception as exc:
        LINK.send({"kind": "fatal", "error": type(exc).__name__, "words": str(exc)[:2000]})
        return 1
    if not held:
        LINK.send({"kind": "fatal", "error": "no_room", "words": json.dumps(nodes)})
        return 1
    LINK.send({"kind": "ready", "capacity": held, "nodes": nodes})
    threading.Thread(target=watch_nodes, args=(settings["need"], held), daemon=True).start()
    common = {name: settings[name] for name in ("python", "keeper", "environment")}
    tune.run(
        tune.with_resources(TrialActor, tune.PlacementGroupFactory([settings["need"]], strategy="STRICT_PACK")),
        name="search",
        config=common,
        search_alg=ProxySearcher(),
        scheduler=ProxyScheduler(),
        num_samples=-1,
        max_failures=0,
        raise_on_failed_trial=False,
        reuse_actors=False,
        storage_path=str(Path(settings["temporary"]) / "tune"),
        trial_dirname_creator=lambda trial: f"{trial.config['number']}-{trial.config['attempt']}-{trial.trial_id}",
        trial_name_creator=lambda trial: f"trial-{trial.config['number']}-{trial.config['attempt']}",
        verbose=0,
    )
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
