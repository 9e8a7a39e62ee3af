"""Programs that a model wrote, run where they can do no harm: bubblewrap without network, files or other processes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoswift.errors import InputError
from autoswift.tables import explain

SECONDS = 10.0
"""Of one program: the tests of HumanEval take milliseconds; a loop without end is ended."""
MEMORY_BYTES = 2**30
FILE_BYTES = 2**24
PROCESSES = 32
OUTPUT = 4_000
"""Characters of what a program said that are kept."""

_LIMITS = (
    "import resource as r\n"
    f"r.setrlimit(r.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))\n"
    f"r.setrlimit(r.RLIMIT_FSIZE, ({FILE_BYTES}, {FILE_BYTES}))\n"
    f"r.setrlimit(r.RLIMIT_CPU, ({int(SECONDS)}, {int(SECONDS)}))\n"
    f"r.setrlimit(r.RLIMIT_NPROC, ({PROCESSES}, {PROCESSES}))\n"
    "del r\n"
)


def bubblewrap() -> str:
    """The program that makes the sandbox, once it has been seen to work.

    Raises:
        InputError: when there is none, or the machine does not let it make one; with the reason.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise InputError(*explain("evaluate.no_sandbox", evidence="bwrap"))
    tried = subprocess.run(
        [*_argv(found), "/bin/true"], capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    if tried.returncode != 0:
        raise InputError(*explain("evaluate.no_sandbox", evidence=tried.stderr.strip()[-300:]))
    return found


def _argv(bwrap: str) -> list[str]:
    """A system without network, other processes, home or anything to write but a small /tmp in memory."""
    argv = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    for place in ("/usr", "/lib", "/lib64", "/bin", "/sbin"):
        if Path(place).exists():
            argv += ["--ro-bind", place, place]
    base = Path(sys.base_prefix).resolve()
    if not base.is_relative_to("/usr"):
        argv += ["--ro-bind", str(base), str(base)]
    return [*argv, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"]  # noqa: S108 - its own


def run_program(bwrap: str, program: str, seconds: float = SECONDS) -> tuple[bool, str]:
    """Whether a Python program ends well, and the end of what it said.

    Args:
        bwrap: from `bubblewrap`. program: its text; read from stdin, so nothing is written anywhere.
    """
    python = str(Path(sys.base_prefix).resolve() / "bin" / f"python3.{sys.version_info.minor}")
    try:
        made = subprocess.run(
            [*_argv(bwrap), python, "-I", "-S", "-"],
            input=_LIMITS + program,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 5,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no end in {seconds:g} s"
    return made.returncode == 0, (made.stderr or made.stdout)[-OUTPUT:]


def program_of(task: Mapping[str, Any], answer: str) -> str:
    """HumanEval's program: what was asked, what was answered, the tests.

    An answer in a code fence is taken out of it; one that defines the function itself needs no prompt before it.
    """
    fence = re.search(r"```(?:python|py)?\s*\n(.*?)```", answer, re.DOTALL)
    code = fence[1] if fence else answer
    entry = str(task["entry_point"])
    head = "" if re.search(rf"^\s*def {re.escape(entry)}\b", code, re.MULTILINE) else str(task["prompt"])
    imports = "\n".join(re.findall(r"^(?:from \S+ )?import .+$", str(task["prompt"]), re.MULTILINE))
    return f"{imports}\n{head}{code}\n{task['test']}\ncheck({entry})\n"


def pass_at_1(
    tasks: Sequence[Mapping[str, Any]], ask: Callable[[str], str], told: Callable[[int], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Each task asked once, greedily, and its program run.

    Args:
        tasks: with task_id, prompt, entry_point, test. ask: prompt to answer. told: of the number done.

    Returns:
        task, passed, said; one a task.

    Raises:
        InputError: when there is no sandbox: nothing is asked then, nothing is run.
    """
    bwrap, found = bubblewrap(), []
    for number, task in enumerate(tasks, 1):
        passed, said = run_program(bwrap, program_of(task, ask(str(task["prompt"]))))
        found.append({"task": str(task.get("task_id", number)), "passed": passed, "said": "" if passed else said})
        told(number)
    return found
