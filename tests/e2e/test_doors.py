"""What a person at a terminal meets before anything is trained."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from support import EXAMPLE, SENTENCE, Cli, tiny_model

pytestmark = pytest.mark.e2e


def ask(cli: Cli, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Runs the command line on a terminal and types an answer to its question."""
    outer, inner = pty.openpty()
    argv = [sys.executable, "-m", "autoswift", *arguments]
    env = cli.env | {"TERM": "dumb", "COLUMNS": "100"}
    with subprocess.Popen(argv, stdin=inner, stdout=inner, stderr=inner, env=env) as child:
        os.close(inner)
        seen = b""
        while True:
            try:
                part = os.read(outer, 4096)
            except OSError:  # the terminal's other end is closed: the child is gone
                break
            if not part:
                break
            if b"[Y/n]" in seen + part and b"[Y/n]" not in seen:
                os.write(outer, answer)
            seen += part
        os.close(outer)
        code = child.wait(60)
    return code, seen.decode("utf-8", "replace")


def test_a_plan_that_is_declined_leaves_nothing(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    out = tmp_path / "run"
    given = ["--data", str(EXAMPLE), "--model", str(tiny_model()), "--out", str(out)]
    code, seen = ask(cli, b"n\n", "run", SENTENCE, *given)
    assert code == 3, seen
    assert "learning_rate" in seen, "the plan is shown before the question"
    assert "not accepted" in seen
    assert not out.exists()
    assert not list((tmp_path / "home" / "runs").glob("*"))


def test_without_a_terminal_consent_must_be_given_beforehand(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    done = cli("run", SENTENCE, "--data", str(EXAMPLE), "--model", str(tiny_model()))
    assert done.returncode == 2
    assert "--yes" in done.stderr


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "own_code"])
def test_a_model_folder_that_is_not_safe_is_refused_before_a_run_is_made(weights: str, tmp_path: Path) -> None:
    import json
    import shutil

    cli, model = Cli(tmp_path / "home"), tmp_path / "model"
    shutil.copytree(tiny_model(), model)
    if weights == "own_code":
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        config |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": {"AutoModel": "mine.Mine"}}
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (model / "mine.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    else:
        (model / "model.safetensors").rename(model / weights)
    done = cli("run", SENTENCE, "--data", str(EXAMPLE), "--model", str(model), "--yes")
    assert done.returncode == 2
    assert str(model) in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "home" / "runs").glob("*"))
