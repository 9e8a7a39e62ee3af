"""Runs one EvalScope task: the task as JSON in the file that is named first. Its own files stay in its folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Exit code 0 when the task has ended."""
    from evalscope import TaskConfig, run_task

    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    run_task(TaskConfig(**spec))
    return 0


if __name__ == "__main__":
    sys.exit(main())
