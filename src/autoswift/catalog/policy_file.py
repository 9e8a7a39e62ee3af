"""Reads policy.yaml: plain YAML, each field checked, and each error with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoswift.errors import InputError
from autoswift.tables import explain, told

if TYPE_CHECKING:
    from yaml import Node

ACTIONS = ("allow", "ask", "deny")
SOURCES = ("huggingface", "modelscope", "packaged", "folder")
KINDS = ("catalogue", "folder", "other")
FIELDS = ("action", "org", "model", "sha256", "source", "reason")
_HASH = re.compile(r"[0-9a-f]{64}")


def read_policy(path: Path, largest: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rules, each with its line, and the defaults.

    Args:
        path: of the file.
        largest: bytes it may have.

    Raises:
        InputError: naming file, line and what is wrong.
    """
    import yaml

    try:
        if path.stat().st_size > largest:
            raise InputError(*explain("policy.file", path=path, line=1, wrong=told("error.policy.large")))
        source = path.read_text(encoding="utf-8")
        value = yaml.safe_load(source)
        # The same text as nodes: they know their lines. Composing makes no objects.
        tree = yaml.compose(source, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(*explain("policy.file", path=path, line=1, wrong=exc)) from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        mark = getattr(exc, "problem_mark", None)
        wrong = str(getattr(exc, "problem", None) or exc)
        raise InputError(*explain("policy.file", path=path, line=mark.line + 1 if mark else 1, wrong=wrong)) from exc
    if value is None or tree is None:
        return [], {}
    return _Reader(path).policy(value, tree)


class _Reader:
    """One file; `_fail` knows its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _fail(self, node: Node, key: str, **values: object) -> InputError:
        wrong = told(f"error.policy.{key}", **values)
        return InputError(*explain("policy.file", path=self.path, line=node.start_mark.line + 1, wrong=wrong))

    def policy(self, value: Any, tree: Node) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        top = self._mapping(value, tree, ("version", "rules", "default"))
        if value.get("version", 1) != 1:
            raise self._fail(top["version"], "version", value=value["version"])
        rules, default = value.get("rules") or [], value.get("default") or {}
        if not isinstance(rules, list):
            raise self._fail(top["rules"], "not_list")
        made = []
        for row, node in zip(rules, top["rules"].value if rules else [], strict=True):
            made.append(self._rule(row, node))
        if default:
            kinds = self._mapping(default, top["default"], KINDS)
            for kind, action in default.items():
                self._one_of(action, kinds[kind], ACTIONS)
        return made, default

    def _rule(self, row: Any, node: Node) -> dict[str, Any]:
        nodes = self._mapping(row, node, FIELDS)
        for name, value in row.items():
            if not isinstance(value, str) or not value.strip() or len(value) > 1000:
                raise self._fail(nodes[name], "not_text", field=name)
        if "action" not in row:
            raise self._fail(node, "no_action")
        self._one_of(row["action"], nodes["action"], ACTIONS)
        if "source" in row:
            self._one_of(row["source"], nodes["source"], SOURCES)
        if "sha256" in row and not _HASH.fullmatch(row["sha256"].lower()):
            raise self._fail(nodes["sha256"], "not_hash")
        if not {"org", "model", "sha256", "source"} & row.keys():
            raise self._fail(node, "fits_all")
        made: dict[str, Any] = {**row, "line": node.start_mark.line + 1}
        if "sha256" in row:
            made["sha256"] = row["sha256"].lower()
        return made

    def _mapping(self, value: Any, node: Node, known: tuple[str, ...]) -> dict[str, Node]:
        """The nodes of a mapping's values by key; keys must be known, and each there once."""
        if not isinstance(value, dict):
            raise self._fail(node, "not_mapping")
        found: dict[str, Node] = {}
        for key, inner in node.value:
            name = str(key.value)
            if name in found:
                raise self._fail(key, "twice", field=name)
            if name not in known:
                raise self._fail(key, "unknown_field", field=name, known=", ".join(known))
            found[name] = inner
        return found

    def _one_of(self, value: Any, node: Node, known: tuple[str, ...]) -> None:
        if value not in known:
            raise self._fail(node, "one_of", value=value, known=", ".join(known))
