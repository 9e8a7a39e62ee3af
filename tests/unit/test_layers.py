"""The house keeps its order: rooms import downwards only, and the control process stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "swift", "peft", "ray", "evalscope", "xllamacpp", "gguf", "modelscope", "datasets")
SLOW_TO_IMPORT = ("sqlalchemy", "optuna", "numpy", "tokenizers", "huggingface_hub", "sacrebleu", "py3langid", "fastapi")
"""Light enough for the core, too slow for `autoswift --help`: imported inside the commands that need them."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_import_contracts_hold() -> None:
    done = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["autoswift.cli", "autoswift.api", "autoswift.pipeline"])
def test_control_process_loads_no_training_library(module: str) -> None:
    done = run("-c", f"import sys, {module}; print(*sorted(n for n in {HEAVY!r} if n in sys.modules))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_command_line_starts_without_the_slow_libraries() -> None:
    names = HEAVY + SLOW_TO_IMPORT
    done = run("-c", f"import sys, autoswift.cli; print(*sorted(n for n in {names!r} if n in sys.modules))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_files_stay_small() -> None:
    """About 400 lines a file; a table of contents stays one (pipeline: 200)."""
    source = ROOT / "src" / "autoswift"
    lengths = {p.relative_to(source).as_posix(): len(p.read_text("utf-8").splitlines()) for p in source.rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > 420} == {}
    assert lengths.get("pipeline.py", 0) <= 200
