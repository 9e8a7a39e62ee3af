"""The documents say what the program does: commands, options, settings, names, links, and both languages alike."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from test_decide import ONLINE, RTX, inputs

import autoswift
from autoswift.api import FinishedRun
from autoswift.catalog.models import catalog
from autoswift.catalog.policy_file import read_policy
from autoswift.cli.app import app
from autoswift.cli.options import hoisted, typed
from autoswift.decide.facts import LEVERS, suppose
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.understand.find import registry
from autoswift.understand.nearest import examples
from autoswift.understand.sourced import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [("README.md", "README.zh.md")] + [
    (f"docs/en/{name}.md", f"docs/zh/{name}.md")
    for name in ("usage", "how-it-decides", "architecture", "many-devices", "plans", "packed", "faults", "evaluation")
]
BOTH = [name for pair in PAIRS for name in pair]
DOCS = [*BOTH, "design/LOG.md"]
DECIDES = PAIRS[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
GLOBAL = {"--lang", "--debug"}
GROUP: Any = typer.main.get_command(app)


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def blocks(name: str) -> tuple[tuple[str, str], ...]:
    """(language, content) of each code block."""
    return tuple((m[1], m[2]) for m in FENCE.finditer(text(name)))


@cache
def prose(name: str) -> str:
    """The document without its code blocks, paragraphs in one line."""
    return re.sub(r"(?<!\n)\n(?![\n|#-])", " ", FENCE.sub("", text(name)))


def shell_lines() -> Iterator[tuple[str, list[str]]]:
    """(document, words) of each line of each shell block."""
    for name in DOCS:
        for language, content in blocks(name):
            if language == "sh":
                for line in content.replace("\\\n", " ").splitlines():
                    words = shlex.split(line, comments=True)
                    if words:
                        yield name, words


def inline_commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """(document, words after the program) of each command within the text."""
    for name in DOCS:
        for found in INLINE.findall(prose(name)):
            words = shlex.split(found)
            if words[0] == program and len(words) > 1:
                yield name, words[1:]


def long_options(command: Any) -> set[str]:
    return {one for p in command.params for one in (*p.opts, *p.secondary_opts) if one.startswith("-")} | {
        "--help",
        "-h",
    }


SHELL = list(shell_lines())


def test_shell_blocks_hold_only_what_is_checked_here() -> None:
    assert {words[0] for _, words in SHELL} == {"autoswift", "make", "pip"}
    assert {tuple(words[1:]) for _, words in SHELL if words[0] == "pip"} == {("install", "dist/*.whl")}


@pytest.mark.parametrize(("name", "words"), [(n, w[1:]) for n, w in SHELL if w[0] == "autoswift"])
def test_commands_in_blocks_parse(name: str, words: list[str]) -> None:
    rest, _, _ = hoisted(words)
    command = GROUP.commands.get(rest[0])
    assert command is not None, f"{name}: autoswift {rest[0]}"
    parent = GROUP.context_class(GROUP, info_name="autoswift")
    command.make_context(rest[0], list(rest[1:]), parent=parent)  # raises a usage error where a word is wrong


def test_commands_in_the_text_and_their_options_exist() -> None:
    found = list(inline_commands("autoswift"))
    assert len(found) > 40
    for name, words in found:
        if words[0].startswith("-"):
            continue
        command = GROUP.commands.get(words[0])
        assert command is not None, f"{name}: autoswift {words[0]}"
        unknown = {w.partition("=")[0] for w in words if w.startswith("--")} - long_options(command) - GLOBAL
        assert not unknown, f"{name}: {words}"


def test_options_named_alone_exist_somewhere() -> None:
    known = GLOBAL | {"--version"} | {o for c in GROUP.commands.values() for o in long_options(c)}
    swift = {"--system", "--load_args", "--create_checkpoint_symlink"}
    for name in DOCS:
        for found in INLINE.findall(prose(name)):
            if found.startswith("-"):
                word = found.split()[0]
                assert word in known | swift, f"{name}: {found}"


@pytest.mark.parametrize("name", [PAIRS[1][0], PAIRS[1][1]])
def test_usage_names_every_command_and_every_option_of_it(name: str) -> None:
    for command_name, command in GROUP.commands.items():
        assert f"`autoswift {command_name}`" in text(name)
        for parameter in command.params:
            if parameter.param_type_name == "option":
                shown = next(o for o in parameter.opts if o.startswith("--"))
                assert shown in text(name), f"{name}: {command_name} {shown}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    asked = [(n, w[1]) for n, w in SHELL if w[0] == "make"] + [(n, w[0]) for n, w in inline_commands("make")]
    assert {"demo", "test", "lint"} <= {target for _, target in asked} <= targets


def slug(heading: str) -> str:
    """A heading's anchor, as the usual renderers make it."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.strip().replace(" ", "-")


def headings(name: str) -> list[tuple[int, str]]:
    return [(len(m[1]), m[2]) for m in re.finditer(r"^(#+) (.+)$", FENCE.sub("", text(name)), re.MULTILINE)]


@pytest.mark.parametrize("name", DOCS)
def test_links_and_pictures_exist(name: str) -> None:
    for target in LINK.findall(FENCE.sub("", text(name))):
        path, _, anchor = target.partition("#")
        assert not path.startswith(("http", "/")), f"{name}: {target} is not relative"
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            other = file.resolve().relative_to(ROOT).as_posix()
            assert anchor in {slug(h) for _, h in headings(other)}, f"{name}: {target}"


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: p[0])
def test_both_languages_link_each_other_and_are_built_alike(pair: tuple[str, str]) -> None:
    for here, there in (pair, pair[::-1]):
        head = "\n".join(text(here).splitlines()[:4])
        targets = {((ROOT / here).parent / t.partition("#")[0]).resolve() for t in LINK.findall(head)}
        assert (ROOT / there).resolve() in targets
    assert [level for level, _ in headings(pair[0])] == [level for level, _ in headings(pair[1])]
    rows = [len(re.findall(r"^\|", text(name), re.MULTILINE)) for name in pair]
    assert rows[0] == rows[1], "a table has more rows in one language"
    bare = [[(lang, re.sub(r"\s*#.*", "", content)) for lang, content in blocks(name)] for name in pair]
    assert bare[0] == bare[1]


@cache
def plan() -> Plan:
    return make_plan(inputs())


def situations() -> list[Inputs]:
    """A CPU, two minutes on it, two cards of a kind, a result for the edge, a cluster: every decision of a plan."""
    cpu, hasty, card = inputs(), inputs(budget=Budget(hours=0.036)), inputs(RTX, ONLINE)
    two = replace(card, hardware=replace(card.hardware, devices=(RTX, replace(RTX, index=1))))
    ray = replace(card, task=replace(card.task, options={"executor": "ray"}))
    return [cpu, hasty, two, replace(cpu, profile=replace(cpu.profile, deploy="edge")), ray]


@cache
def decided() -> frozenset[str]:
    """All decisions: a plan's, and `data`, which is made before it."""
    return frozenset({d.name for one in situations() for d in make_plan(one).decisions} | {"data"})


def decision_rows(name: str) -> dict[str, str]:
    """Decision name to the cell that says how to overrule it."""
    found = {}
    for line in text(name).splitlines():
        cells = [c.strip() for c in line.strip("|").split(" | ")]
        if len(cells) == 4 and (m := re.fullmatch(r"`([a-z_]+)`", cells[0])):
            found[m[1]] = cells[3]
    return found


@pytest.mark.parametrize("name", DECIDES)
def test_every_decision_of_a_plan_is_described_and_no_other(name: str) -> None:
    assert set(decision_rows(name)) == decided()


@pytest.mark.parametrize("name", [n for n in DOCS if "--set" in text(n)])
def test_settings_that_can_be_set_are_decisions(name: str) -> None:
    asked = set(re.findall(r"--set ([a-z_]+)=", text(name)))
    assert asked <= decided() | set(SETTINGS)


@pytest.mark.parametrize("name", [n for n in DOCS if "--assume" in text(n)])
def test_facts_that_are_assumed_can_be(name: str) -> None:
    for fact, value in re.findall(r"--assume ([a-z_0-9.]+)=([^`\s]+)", text(name)):
        assert suppose(inputs(), fact, typed(value)) != inputs(), f"{name}: {fact}={value}"


@pytest.mark.parametrize("name", DECIDES)
def test_every_fact_that_may_turn_a_decision_is_named(name: str) -> None:
    assert [fact for fact in LEVERS if f"`{fact}`" not in text(name)] == []


OVERRULED = sorted(
    set(re.findall(r"`--set ([a-z_]+)=([^`\s]+)`", " ".join([*decision_rows(DECIDES[0]).values()])))
    | set(re.findall(r"`--set ([a-z_]+)=([^`\s]+)`", " ".join([*decision_rows(DECIDES[1]).values()])))
)


@pytest.mark.parametrize(("setting", "value"), OVERRULED)
def test_overruling_a_decision_changes_what_will_be_done(setting: str, value: str) -> None:
    given = next(one for one in situations() if setting in {d.name for d in make_plan(one).decisions})
    options = given.task.options | {setting: typed(value)}
    changed = make_plan(replace(given, task=replace(given.task, options=options)))
    assert changed.decision(setting).source == "user"
    assert replace(changed, decisions=()) != replace(make_plan(given), decisions=())


def test_numbers_of_the_rules_stand_in_the_documents() -> None:
    """The numbers that are told are those in force (checked where they are easy to forget)."""
    from autoswift.decide.model import USEFUL_TOKENS
    from autoswift.recover.detect import ABOVE_START
    from autoswift.recover.remedies import MAX_ATTEMPTS
    from autoswift.tables import table

    rules = table("rules")
    told = [f"{USEFUL_TOKENS:,}", f"{rules['tokens']['cpu_cap']:,}", f"{ABOVE_START:g}"]
    told += [f"{rules['length']['largest']:,}"]
    told += [f"{e:g}" for e in rules["learning_rate"]["exponent"].values()] + [str(MAX_ATTEMPTS)]
    told += [f"{one['learning_rate']:g}" for kind in ("full", "short") for one in rules["portfolio"][kind][1:]]
    told += [f"{rules['memory'][share] * 100:.0f}" for share in ("share", "share_cpu")] + [f"{len(catalog()):,}"]
    weights, source = table("recommend"), table("sourcing")
    told += [f"{weights['points'][one]:g}".replace("-", "−") for one in ("language_missing", "squeezed", "thinks")]
    told += [f"{weights['cost'][one]:g}" for one in ("open", "narrow", "labels", "latency")]
    told += [f"{source['auto']:g}", f"{source['weights']['topic']:.2f}"]
    for name in DECIDES:
        assert [number for number in told if number not in text(name)] == []
    for name in PAIRS[1]:
        assert f"{len(examples()):,}" in text(name)
        assert f"{len(registry())} " in text(name)
    for name in PAIRS[0]:
        assert f"{rules['tokens']['cpu_cap']:,}" in text(name)
        assert f"{len(catalog()):,}" in text(name)


def keys_of(command: str) -> set[str]:
    """Top-level keys of the first JSON block in a command's section of the usage."""
    section = re.split(r"^## ", text(PAIRS[1][0]), flags=re.MULTILINE)
    body = next(s for s in section if f"`autoswift {command}`" in s.splitlines()[0])
    return set(json.loads(next(c for lang, c in FENCE.findall(body) if lang == "json")))


def test_json_shapes_are_those_that_are_printed() -> None:
    from autoswift.cli.fit import estimate
    from autoswift.cli.inspect import _understood
    from autoswift.run.files import plain
    from autoswift.understand.data import as_report, inspect

    assert keys_of("understand") == set(_understood("让客服机器人学会处理退货咨询", None))
    assert keys_of("fit") == set(estimate({"model": "Qwen/Qwen2.5-7B-Instruct", "gpu": "a100-80g"}))
    assert keys_of("plan") == set(plain(plan()))
    profile, _ = inspect(ROOT / "examples" / "customer_chat.json", {}, 0)
    assert keys_of("data") <= set(as_report(profile))


@pytest.mark.parametrize("name", BOTH)
def test_json_toml_and_policy_blocks_are_valid(name: str, tmp_path: Path) -> None:
    for language, content in blocks(name):
        assert language in ("sh", "json", "python", "text", "toml", "yaml"), f"{name}: {language!r}"
        if language == "yaml":
            (tmp_path / "policy.yaml").write_text(content, encoding="utf-8")
            rules, default = read_policy(tmp_path / "policy.yaml", 2**20)
            assert rules
            assert default
        if language == "json":
            json.loads(content)
        if language == "toml":
            (group,) = tomllib.loads(content)["project"]["entry-points"]
            assert f'"{group}"' in text("pyproject.toml")


@pytest.mark.parametrize("name", [n for n in BOTH if any(lang == "python" for lang, _ in blocks(n))])
def test_python_snippets_use_names_that_exist(name: str) -> None:
    for language, content in blocks(name):
        if language == "python":
            tree = ast.parse(content)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    assert all(hasattr(import_module(str(node.module)), alias.name) for alias in node.names)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "run":
                    assert hasattr(FinishedRun, node.attr), f"{name}: run.{node.attr}"
                if isinstance(node, ast.Call):
                    _check_call(node)


def _check_call(node: ast.Call) -> None:
    """Binds a call to the signature of what it calls, where that is ours."""
    ours: dict[str, Any] = {
        "AutoSwift": autoswift.AutoSwift,
        "AutoSwift.fit": autoswift.AutoSwift.fit,
        "autoswift.plan": autoswift.plan,
        "run.chat": FinishedRun.chat,
        "run.stop": FinishedRun.stop,
        "plan.decision": Plan.decision,
    }
    called = re.sub(r"\(.*?\)", "", ast.unparse(node.func))
    if called not in ours:
        return
    named: dict[str, Any] = {str(k.arg): None for k in node.keywords}
    method = called in ("AutoSwift.fit", "run.chat", "run.stop", "plan.decision")
    inspect.signature(ours[called]).bind(*([None] if method else []), *node.args, **named)
    if called == "autoswift.plan":  # its further options are those of AutoSwift
        inspect.signature(autoswift.AutoSwift).bind(**{k: v for k, v in named.items() if k not in ("data", "hardware")})
    if called == "plan.decision" and isinstance(node.args[0], ast.Constant):
        assert plan().decision(str(node.args[0].value))


def test_names_of_modules_in_the_text_exist() -> None:
    for name in DOCS:
        for found in INLINE.findall(prose(name)):
            if m := re.fullmatch(r"(autoswift(?:\.[a-z_]+)+)(?:[:.](\w+))?", found):
                module, attribute = m[1], m[2]
                try:
                    there: Any = import_module(module)
                except ModuleNotFoundError:
                    module, _, last = module.rpartition(".")
                    there = getattr(import_module(module), last)
                assert attribute is None or hasattr(there, attribute), f"{name}: {found}"


def test_environment_variables_and_exit_codes_are_read_somewhere() -> None:
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "autoswift").rglob("*.py"))
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", text(PAIRS[0][0])))
    assert len(named) >= 10
    composed = {n for n in named if f"{{prefix}}{n.removeprefix('AUTOSWIFT_TEACHER_')}" in source}
    assert {n for n in named - composed if n not in source and not n.startswith("PIP_")} == set()
    for name in PAIRS[0]:
        assert re.findall(r"^\| (\d+) \|", text(name), re.MULTILINE) == ["0", "2", "3", "4", "130"]


@pytest.mark.parametrize("name", PAIRS[1])
def test_messages_in_the_troubleshooting_are_those_of_the_source(name: str) -> None:
    package = ROOT / "src" / "autoswift"
    source = "".join(p.read_text(encoding="utf-8") for p in package.rglob("*.py"))
    words = json.loads((package / "tables" / "locales" / f"{name.split('/')[1]}.json").read_text(encoding="utf-8"))
    source += "\n".join(re.sub(r"\{[^}]*\}", "…", one) for one in words.values())
    quoted = re.findall(r'^\| "(.+?)" \|', text(name), re.MULTILINE)
    assert len(quoted) >= 12
    for message in quoted:
        for part in re.split(r"\s?…\s?", message):
            assert part.strip() in source, f"{name}: {message}"


@pytest.mark.parametrize("name", DOCS)
def test_no_place_of_a_machine_and_no_host(name: str) -> None:
    hosts = {h.partition(":")[0] for h in re.findall(r"https?://([^/\s`)]+)", text(name))}
    assert hosts <= {"127.0.0.1"}
    assert not re.search(r"(?<![\w.~])/(?:work|root|home|tmp|Users|mnt|opt|var|usr)(?:/|\b)", text(name))
    assert not re.search(r"pypi|mirrors?\.|simple/", text(name), re.IGNORECASE)


@pytest.mark.parametrize("name", PAIRS[0])
def test_the_place_for_the_figures_is_there_once(name: str) -> None:
    begin, end = "<!-- demo:begin -->", "<!-- demo:end -->"
    assert text(name).count(begin) == text(name).count(end) == 1
    assert text(name).split(begin)[1].split(end)[0].strip()
