"""Stands in for the interpreter: starts ms-swift with one plug-in more, everything else as it was asked.

`python fault_start.py PLUGIN PYTHON -- arguments of Python…`; only a command line with `--external_plugins` and
`--callbacks` is changed.
"""

from __future__ import annotations

import os
import sys


def with_plugin(arguments: list[str], plugin: str) -> list[str]:
    """The arguments with our plug-in and callback behind those that are there."""
    changed = list(arguments)
    for option, value in (("--external_plugins", plugin), ("--callbacks", "autoswift_faults")):
        if option in changed:
            changed.insert(changed.index(option) + 2, value)
    return changed


if __name__ == "__main__":
    plugin, python, *rest = sys.argv[1:]
    os.execv(python, [python, *with_plugin(rest, plugin)])  # noqa: S606 - stands in for the interpreter
