"""Errors speak the reader's language and end with the documented exit code."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoswift import errors
from autoswift.errors import AutoSwiftError, DiskFull, InputError
from autoswift.run.disk import disk_errors_explained
from autoswift.tables import explain, named, told, use_language

SOURCE = Path(inspect.getfile(errors)).parent
CLASSES = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__
}
CHINESE = re.compile("[\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z]{2,}")
TREE_LINE = re.compile(r"^[ │├└─]*(?P<name>[A-Z]\w+) +(?P<code>\d)  ", re.MULTILINE)


def words(node: ast.AST) -> list[str]:
    """The English words that stand literally in an argument; those of the calls inside it are keys and separators."""
    if isinstance(node, ast.Call):
        return []
    if isinstance(node, ast.Constant):
        return WORD.findall(node.value) if isinstance(node.value, str) else []
    return [word for child in ast.iter_child_nodes(node) for word in words(child)]


def untold() -> list[str]:
    """Places that make an error of ours with an English sentence in the source."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE)
        if {"children", "testing"} & set(inside.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if name in CLASSES and any(len(words(argument)) > 2 for argument in node.args):
                found.append(f"{inside}:{node.lineno}")
    return found


def test_no_error_is_written_in_one_language_only() -> None:
    assert untold() == []


def test_the_walk_sees_sentences() -> None:
    made = ast.parse("InputError(f'There is no file {path}.', '', 'a ' + 'longer' + ' text here')")
    call = made.body[0].value  # type: ignore[attr-defined]
    assert [len(words(argument)) for argument in call.args] == [4, 0, 3]


def test_every_class_has_the_documented_exit_code() -> None:
    documented = {match["name"]: int(match["code"]) for match in TREE_LINE.finditer(errors.__doc__ or "")}
    documented["AutoSwiftError"] = 4  # the root's line says what it holds, not its code
    assert documented == {name: kind.exit_code for name, kind in CLASSES.items()}


def test_the_tree_is_as_documented() -> None:
    for name, kind in CLASSES.items():
        assert issubclass(kind, AutoSwiftError), name
        assert issubclass(kind, InputError) == (kind.exit_code == 2), name


def test_a_missing_file_is_explained_in_chinese() -> None:
    from autoswift.cli.app import app

    done = CliRunner().invoke(app, ["run", "x", "--data", "missing", "--lang", "zh"])
    assert done.exit_code == 2
    lines = dict(line.split(": ", 1) for line in done.stderr.splitlines() if ": " in line)
    assert {"错误", "解决"} <= lines.keys()
    assert CHINESE.search(lines["错误"])
    assert CHINESE.search(lines["解决"])


def test_the_command_settles_the_language_of_the_other_rooms() -> None:
    from autoswift.cli.app import app

    for language, expected in (("zh", "没有编号为"), ("en", "There is no run"), ("zh", "没有编号为")):
        done = CliRunner().invoke(app, ["show", "nothing-like-it", "--lang", language])
        assert done.exit_code == 2
        assert expected in done.stderr


def test_python_reads_the_language_of_its_task() -> None:
    from autoswift.api import AutoSwift, plan

    for language, expected in (("zh", "找不到文件"), ("en", "There is no file")):
        with pytest.raises(InputError, match=expected) as caught:
            AutoSwift(language=language).fit("a bot for the shop", "missing.json")
        assert bool(CHINESE.search(caught.value.fix)) == (language == "zh")
    with pytest.raises(InputError, match="找不到文件"):
        plan("做一个客服机器人", "missing.json")


def test_absent_parts_are_empty_and_values_are_filled() -> None:
    assert explain("api.trials", trials=0) == (
        "--budget-trials 0: at least one trial is needed.",
        "",
        "Give 1 or more.",
    )
    assert explain("engine.no_checkpoint", trial=3)[2] == ""
    with pytest.raises(KeyError):
        explain("nothing.like_it")


@pytest.mark.parametrize(
    ("language", "unknown", "killed"), [("en", "unknown", "killed"), ("zh", "未知", "进程被外部终止")]
)
def test_words_inside_an_error_follow_its_language(language: str, unknown: str, killed: str) -> None:
    use_language(language)
    assert told("error.unknown") == unknown
    assert named("error.symptom", "killed") == killed
    assert named("error.symptom", "of_a_plug_in") == "of a plug in"


@pytest.mark.parametrize(("language", "says"), [("en", "The disk is full"), ("zh", "磁盘已满")])
def test_a_full_disk_is_said_in_the_language_of_the_run(language: str, says: str) -> None:
    use_language(language)
    with pytest.raises(DiskFull, match=says) as caught, disk_errors_explained("/some/place"):
        raise OSError(28, "No space left on device")
    assert "/some/place" in caught.value.what
    assert "autoswift resume" in caught.value.fix


def test_another_error_of_the_system_passes() -> None:
    with pytest.raises(PermissionError), disk_errors_explained("/some/place"):
        raise PermissionError(13, "Permission denied")
