"""Where a probe asks: this machine, or a recording of another one.

A recording is a folder: `machine.json` (system, architecture, environment, cores, disk) beside one text file for each
command's output and each system file, named after it. Probes cannot tell the two apart, so every parser is tested on
what real tools printed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 10.0
"""For a driver's tool: a healthy one answers within two seconds even after sleep; a wedged driver makes it hang."""
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "ASCEND_RT_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
             "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # fmt: skip
"""Of the environment, all that probes look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a probe may ask for.

    Attributes:
        run: a command's output; empty when it is absent, fails or hangs.
        read: a file's text; empty when it is absent.
        environ: the environment.
        system: linux, darwin or win32. machine: its architecture as Python names it (x86_64, arm64, aarch64).
        cores: that this process may run on.
        memory: bytes in all and free where the system's own files do not say it.
        disk: free bytes at the run's folder; None asks the file system.
        real: the machine itself, so it may be measured.
    """

    run: Callable[[Sequence[str]], str]
    read: Callable[[str], str]
    environ: Mapping[str, str] = field(default_factory=dict)
    system: str = "linux"
    machine: str = "x86_64"
    cores: int = 1
    memory: tuple[int, int] = (0, 0)
    disk: int | None = None
    real: bool = False


def label(words: Sequence[str] | str) -> str:
    """The file name of a command or of a path in a recording: `nvidia-smi_-q_-x.txt`, `proc_cpuinfo.txt`."""
    if not isinstance(words, str):
        script = next((word for word in words if word.endswith(".py")), "")
        words = Path(script).stem if script else " ".join([Path(words[0]).name, *words[1:]])
    return re.sub(r"[^A-Za-z0-9.,=-]+", "_", words).strip("_") + ".txt"


def output(argv: Sequence[str], timeout: float = SECONDS) -> str:
    """What a tool printed; empty when it is absent, fails or hangs."""
    if not os.path.isabs(argv[0]) and shutil.which(argv[0]) is None:
        return ""
    try:
        done = subprocess.run(
            list(argv), capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=timeout, check=False,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def text_of(path: str) -> str:
    """A small file's text; empty when it cannot be read. Device-tree files end in a NUL."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").replace("\0", "").strip()
    except OSError:
        return ""


def here() -> Source:
    """This machine."""
    import psutil

    found = psutil.virtual_memory()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Source(
        run=output,
        read=text_of,
        environ=os.environ,
        system=sys.platform,
        machine=platform.machine(),
        cores=allowed,
        memory=(int(found.total), int(found.available)),
        real=True,
    )


def recorded(folder: Path) -> Source:
    """A recording; what it does not hold is taken as absent.

    Raises:
        OSError, ValueError: when its `machine.json` is missing or not JSON.
    """
    told = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    return Source(
        run=lambda argv: text_of(str(folder / label(argv))),
        read=lambda path: text_of(str(folder / label(path))),
        environ=told.get("environ", {}),
        system=told.get("system", "linux"),
        machine=told.get("machine", "x86_64"),
        cores=int(told.get("cores", 1)),
        memory=(int(told.get("memory", 0)), int(told.get("memory_free", 0))),
        disk=told.get("disk_free"),
    )


def recording(source: Source, folder: Path) -> Source:
    """The same source, which also writes down every answer: what a report of a wrong probe should bring along."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "system": source.system,
        "machine": source.machine,
        "cores": source.cores,
        "memory": source.memory[0],
        "memory_free": source.memory[1],
        "environ": {name: source.environ[name] for name in VARIABLES if name in source.environ},
    }
    (folder / "machine.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def kept(name: str, text: str) -> str:
        if text:
            (folder / name).write_text(text + "\n", encoding="utf-8")
        return text

    return Source(
        run=lambda argv: kept(label(argv), source.run(argv)),
        read=lambda path: kept(label(path), source.read(path)),
        environ=source.environ,
        system=source.system,
        machine=source.machine,
        cores=source.cores,
        memory=source.memory,
        disk=source.disk,
        real=source.real,
    )
