"""The pages of plans say what the planner decides, and nothing in them is what nobody would do."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "plan_tables.py"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan_tables"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


plan_tables = _script()


def tables(language: str) -> dict[str, list[list[str]]]:
    """Machine to the rows of its table, without the head."""
    found: dict[str, list[list[str]]] = {}
    machine = ""
    for line in (ROOT / "docs" / language / "plans.md").read_text(encoding="utf-8").splitlines():
        if m := re.match(r"## ([a-z0-9-]+)", line):
            machine = m[1]
        elif line.startswith("| ") and "---" not in line:
            found.setdefault(machine, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return {machine: rows[1:] for machine, rows in found.items()}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rows_are_what_the_planner_says_now(language: str) -> None:
    page = (ROOT / "docs" / language / "plans.md").read_text(encoding="utf-8").splitlines()
    for place, machine in enumerate(plan_tables.machines()):
        case = plan_tables.CASES[(7 * place + (language == "zh")) % len(plan_tables.CASES)]
        made = plan_tables.row(plan_tables.cells(case, machine, language))
        assert made in page, f"{machine}: run make plan-tables\n{made}"


def test_every_machine_has_a_plan_for_every_task_in_both_languages() -> None:
    for language in ("en", "zh"):
        found = tables(language)
        assert list(found) == list(plan_tables.machines())
        for machine, rows in found.items():
            assert [row[0] for row in rows] == [case.name(language) for case in plan_tables.CASES], machine
    assert len(plan_tables.CASES) == 40
    assert len(plan_tables.machines()) >= 12


def test_the_plans_are_such_as_the_machines_can_carry_out() -> None:
    for machine, rows in tables("en").items():
        kind = plan_tables.machines()[machine].device.kind
        for row in rows:
            method, precision, peak = row[2], row[3], row[10]
            used, whole = map(float, peak.split(" / "))
            assert used < whole, (machine, row)
            assert method != "qlora" or kind == "cuda"
            assert precision == {"cpu": "float32", "t4": "float16", "v100": "float16"}.get(
                machine if machine in ("t4", "v100") else kind, "bfloat16"
            )
            assert 1e-5 < float(row[8]) < 5e-3
