"""Counts tokens as the model's own tokenizer and chat template make them, without transformers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoswift.catalog.folder import chat_template
from autoswift.domain.profile import LengthStats
from autoswift.errors import ModelError
from autoswift.tables import explain

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.parser import Parser

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For a folder without a template (a base model): trainers wrap turns in about this much."""
CJK_TOKENS, OTHER_TOKENS = 0.8, 0.3
"""Tokens a character where the tokenizer cannot be read (no tokenizer.json): a little above what Qwen needs."""
BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """Tokens of whole rows, template included, and of their answers with the end token of each."""

    rows: LengthStats
    answers: LengthStats


class TokenCounter:
    """Counts tokens for one model.

    Args:
        model_dir: a model folder; tokenizer.json and the chat template are read, nothing is run outside a sandbox.

    Attributes:
        exact: False where only characters could be counted.
        unrendered: dialogues that the template refused so far (counted with a plain one instead).

    Raises:
        ModelError: when the tokenizer or the template is damaged.
    """

    def __init__(self, model_dir: Path) -> None:
        from jinja2 import TemplateSyntaxError
        from tokenizers import Tokenizer

        path = model_dir / "tokenizer.json"
        self.exact = path.is_file()
        self.unrendered = 0
        try:
            self._tokenizer = Tokenizer.from_file(str(path)) if self.exact else None
        except Exception as exc:  # the library raises plain Exception
            raise ModelError(*explain("tokens.tokenizer", path=path, evidence=exc)) from exc
        if self._tokenizer is not None:
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        self._special = special_tokens(model_dir)
        environment = sandbox()
        source = chat_template(model_dir)
        try:
            self._template = environment.from_string(source or CHATML)
        except TemplateSyntaxError as exc:
            raise ModelError(*explain("tokens.template", folder=model_dir, evidence=exc)) from exc
        self._plain = environment.from_string(CHATML)

    def render(self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """The dialogue as the text that the model sees.

        Args:
            messages: each with role and content.
            add_generation_prompt: end with the opening of an answer.
        """
        from jinja2 import TemplateError

        values = {"messages": list(messages), "add_generation_prompt": add_generation_prompt, "tools": None}
        try:
            return self._template.render(**self._special, **values, documents=None)
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
            # Some templates refuse a system turn or turns that do not alternate; training uses ms-swift's template.
            self.unrendered += 1
            return self._plain.render(**values)

    def count_text(self, text: str) -> int:
        """Tokens of a text, without special tokens added."""
        return self._counts([text])[0]

    def count(self, messages: Sequence[dict[str, Any]]) -> int:
        """Tokens of a dialogue, template included."""
        return self.count_text(self.render(messages))

    def stats(self, rows: Iterable[Sequence[dict[str, Any]]]) -> TokenStats:
        """Lengths over many dialogues.

        Args:
            rows: each a dialogue's messages.
        """
        whole: list[int] = []
        answers: list[int] = []
        batch: list[Sequence[dict[str, Any]]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH:
                self._add(batch, whole, answers)
                batch = []
        self._add(batch, whole, answers)
        return TokenStats(rows=length_stats(whole), answers=length_stats(answers))

    def _add(self, batch: list[Sequence[dict[str, Any]]], whole: list[int], answers: list[int]) -> None:
        whole += self._counts([self.render(row) for row in batch])
        spoken = [[str(m.get("content") or "") for m in row if m.get("role") == "assistant"] for row in batch]
        counts = iter(self._counts([text for turns in spoken for text in turns]))
        answers += [sum(next(counts) + 1 for _ in turns) for turns in spoken]

    def _counts(self, texts: list[str]) -> list[int]:
        if not texts:
            return []
        # Lone surrogates cannot be encoded; cleaning marks them, counting must not end on them.
        safe = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        if self._tokenizer is None:
            return [estimated_tokens(text) for text in safe]
        return [len(one.ids) for one in self._tokenizer.encode_batch_fast(safe, add_special_tokens=False)]


PROBE = "autoswift-probe"


def default_system(model_dir: Path) -> str:
    """The system message that the folder's chat template puts in by itself, or an empty text.

    Servers use the folder's template; ms-swift's own templates mostly put none in, so a training has to be told it,
    or trainer and server would not see the same tokens.
    """
    counter = TokenCounter(model_dir)
    user = {"role": "user", "content": "?"}
    bare = counter.render([user], add_generation_prompt=True)
    asked = counter.render([{"role": "system", "content": PROBE}, user], add_generation_prompt=True)
    before, found, after = asked.partition(PROBE)
    if not found or counter.unrendered or not bare.startswith(before) or not bare.endswith(after):
        return ""
    return bare[len(before) : len(bare) - len(after)]


def estimated_tokens(text: str) -> int:
    """Tokens by characters, for a model that is not at hand."""
    cjk = sum(1 for c in text if "\u3040" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7af" or "\uff00" <= c <= "\uffef")
    return int(cjk * CJK_TOKENS + (len(text) - cjk) * OTHER_TOKENS + 0.999)


def length_stats(lengths: Sequence[int]) -> LengthStats:
    """Mean, median, 95th percentile (nearest rank), largest and sum; zeros for no rows."""
    if not lengths:
        return LengthStats(mean=0.0, p50=0.0, p95=0.0, max=0.0, total=0.0)
    ordered = sorted(lengths)

    def rank(share: float) -> float:
        return float(ordered[max(0, -int(-share * len(ordered) // 1) - 1)])

    total = float(sum(ordered))
    return LengthStats(mean=total / len(ordered), p50=rank(0.5), p95=rank(0.95), max=float(ordered[-1]), total=total)


def special_tokens(model_dir: Path) -> dict[str, str]:
    """bos_token, eos_token and the like, as templates use them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = model_dir / name
        try:
            values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError:
            continue  # the folder's inspection names damaged files
        for key, value in values.items() if isinstance(values, dict) else ():
            token = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(token, str):
                found[key] = token
    return found


def sandbox() -> Environment:
    """The environment in which a foreign chat template is rendered: no attributes of Python's, nothing changed."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: marks the answer for trainers; its content is kept as it is."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's interface)

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **others: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **others)

    def strftime_now(pattern: str) -> str:
        return datetime.datetime.now().strftime(pattern)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment
