"""Writes the locked lists from the environment that runs this script, which must resolve (`pip check`).

    .venv/bin/python scripts/lock.py

`train.txt` holds what the extra `train` pulls, `dev.txt` what the core, `train`, `ray` and `dev` pull. Versions are
written without their local part (torch's `+cpu`) and without hashes, so that each machine gets the build for its
devices; libraries that only a GPU build asks for follow from torch's own exact pins.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "src" / "autoswift" / "tables" / "locks"
HEAD = "# Written by scripts/lock.py: {what}. Do not edit.\n"


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """All distributions that the requirements pull here, as name -> version.

    Raises:
        SystemExit: when one is not installed, or is installed in a version that the requirement refuses.
    """
    pins: dict[str, str] = {}
    todo = [(Requirement(text), "pyproject.toml") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, asked_by = todo.pop()
        name = canonicalize_name(requirement.name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{asked_by} wants {requirement}, which is not installed here.")
        if not requirement.specifier.contains(found.version, prereleases=True):
            sys.exit(f"{asked_by} wants {requirement}, but {found.version} is installed here.")
        pins[name] = Version(found.version).public
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in found.requires or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append((needed, name))
    return pins


def write(name: str, what: str, requirements: Iterable[str]) -> None:
    """Writes one locked list."""
    pins = closure(requirements)
    lines = "".join(f"{package}=={version}\n" for package, version in sorted(pins.items()))
    (LOCKS / name).write_text(HEAD.format(what=what) + lines, encoding="utf-8")
    print(f"{name}: {len(pins)} packages")


def main() -> None:
    """Writes both lists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core, extras = project["dependencies"], project["optional-dependencies"]
    write("train.txt", "what the training environment holds", extras["train"])
    write("dev.txt", "what a checkout's environment holds", core + extras["train"] + extras["ray"] + extras["dev"])


if __name__ == "__main__":
    main()
