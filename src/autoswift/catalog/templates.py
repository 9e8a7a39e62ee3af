"""Chat templates from strangers: parsed in jinja2's sandbox, never rendered here, and looked at for what none needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoswift.errors import ModelError
from autoswift.tables import explain

if TYPE_CHECKING:
    from jinja2 import nodes

LONGEST = 2**20
"""Characters. The largest published templates have 30,000."""
MOST_REPEATS = 10_000
"""`"x" * n` is computed when a template is compiled, before any sandbox watches: more than this is no indentation."""


def check_template(source: str, path: Path | str) -> None:
    """Parses a template and refuses what reaches out of the sandbox, other files, or all of the memory.

    Args:
        source: the template.
        path: of the file that holds it, for the error.

    Raises:
        ModelError: saying what is wrong.
    """
    from jinja2 import TemplateSyntaxError

    from autoswift.catalog.tokens import sandbox

    if len(source) > LONGEST:
        raise ModelError(*explain("folder.template_large", path=path, size=len(source), limit=LONGEST))
    try:
        tree = sandbox().parse(source)
        found = _reaches_out(tree)
    except (TemplateSyntaxError, RecursionError, ValueError, OverflowError) as exc:
        raise ModelError(*explain("folder.template_syntax", path=path, evidence=exc)) from exc
    if found:
        raise ModelError(*explain("folder.template_unsafe", path=path, found=found[:80]))


def _reaches_out(tree: nodes.Template) -> str:
    """The first thing in a template that no chat template needs; empty when there is none."""
    from jinja2 import nodes

    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Pow)):
        return type(node).__name__.lower()
    found = [f".{got.attr}" for got in tree.find_all(nodes.Getattr) if got.attr.startswith("_")]
    found += [f"[{word!r}]" for item in tree.find_all(nodes.Getitem) if (word := _word(item.arg)).startswith("__")]
    found += ["|attr" for filtered in tree.find_all(nodes.Filter) if filtered.name == "attr"]
    found += ["*" for product in tree.find_all(nodes.Mul) if _is_vast(product)]
    return found[0] if found else ""


def _word(node: nodes.Node) -> str:
    value = getattr(node, "value", None)
    return value if isinstance(value, str) else ""


def _is_vast(product: nodes.Mul) -> bool:
    """Something repeated more often than any indentation, at once or by a product of products."""
    from jinja2 import nodes

    sides = (product.left, product.right)
    constants = [side.value for side in sides if isinstance(side, nodes.Const)]
    numbers = [abs(value) for value in constants if isinstance(value, int | float)]
    nested = any(isinstance(side, nodes.Mul) for side in sides)
    return bool(numbers) and len(numbers) < len(sides) and (nested or max(numbers) > MOST_REPEATS)
