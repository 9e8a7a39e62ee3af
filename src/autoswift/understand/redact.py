"""Masks personal data by a word for its kind, in the text's language."""

from __future__ import annotations

from typing import Any

from autoswift.understand.flags import blotted
from autoswift.understand.language import HAN

WORDS = {
    "phone": ("[手机号]", "[PHONE]"),
    "email": ("[邮箱]", "[EMAIL]"),
    "id_card": ("[身份证号]", "[ID_NUMBER]"),
    "bank_card": ("[银行卡号]", "[CARD_NUMBER]"),
    "address": ("[地址]", "[ADDRESS]"),
    "name": ("[姓名]", "[NAME]"),
}
"""What stands instead, in Chinese and in English. One word for a kind: a model shall learn that a number stands there,
not which; a word for each number would keep who is who, which is what is to be hidden."""


def redact(text: str, chinese: bool | None = None) -> tuple[str, list[str]]:
    """A text with its personal data masked.

    Args:
        text: any.
        chinese: the words' language; by the text itself when it is not given.

    Returns:
        The text, and the kinds that were masked, once for each piece.
    """
    place = 0 if (bool(HAN.search(text)) if chinese is None else chinese) else 1
    kinds: list[str] = []
    while True:  # what stands beside a mask may only now be told apart
        text, found = blotted(text, lambda kind: WORDS[kind][place])
        if not found:
            return text, kinds
        kinds += found


def redact_all(value: Any) -> Any:
    """A record of any build with each text in it masked."""
    if isinstance(value, str):
        return redact(value)[0]
    if isinstance(value, dict):
        return {k: redact_all(v) for k, v in value.items()}
    return [redact_all(v) for v in value] if isinstance(value, list) else value
