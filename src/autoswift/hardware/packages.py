"""What is installed in the training environment, read from its folders: no process is started and nothing imported."""

from __future__ import annotations

import re
from pathlib import Path

from autoswift.errors import EnvironmentMissing
from autoswift.run.places import train_python_or_none

FOLDER = re.compile(r"(.+?)-([^-]+)\.(?:dist|egg)-info$")


def installed(python: Path | None = None) -> dict[str, str]:
    """Packages by their normalised name (`flash-attn`) to their versions; empty where there is no environment.

    Args:
        python: an interpreter; by default that of the training environment.
    """
    try:
        python = python or train_python_or_none()
    except EnvironmentMissing:
        return {}
    if python is None:
        return {}
    # Not resolved: a virtual environment's interpreter is a link to the one that it was made with.
    root = python.absolute().parent.parent
    found: dict[str, str] = {}
    patterns = ("lib/python3*/site-packages", "lib64/python3*/site-packages", "lib/python3*/dist-packages",
                "lib/python3/dist-packages", "Lib/site-packages")  # fmt: skip
    for pattern in patterns:
        for folder in sorted(root.glob(pattern)):
            for entry in folder.iterdir():
                match = FOLDER.match(entry.name)
                if match:
                    found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2])
    return found
