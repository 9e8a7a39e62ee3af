"""What web pages leave in texts: tags and entities, and the sentences that stand under every article."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache

from autoswift.tables import table

_NAMES = "nbsp|amp|lt|gt|quot|apos|[lr][ds]quo|[mn]dash|hellip|middot|bull|copy|reg|trade|times|e[mn]sp|thinsp|yen|deg"
_ENTITY = re.compile(rf"&(?:{_NAMES}|#\d{{1,6}}|#[xX][0-9a-fA-F]{{1,5}});")
_ATTRIBUTES = r"(?:\s+[\w:@-]+(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>\"']+))?)*\s*/?"
_BREAK = re.compile(r"<br\s*/?>|</br\s*>", re.IGNORECASE)
_BLOCKS = "p|div|li|ul|ol|tr|table|tbody|thead|h[1-6]|hr|section|article|blockquote|center|dl|dd|dt"
_INLINE = "span|font|strong|em|b|i|u|a|td|th|sub|sup|small|big|o:p"
_BLOCK = re.compile(rf"</?(?P<tag>{_BLOCKS})(?P<more>{_ATTRIBUTES})>", re.IGNORECASE)
_IN_LINE = re.compile(rf"</?(?P<tag>{_INLINE})(?P<more>{_ATTRIBUTES})>", re.IGNORECASE)
_IMAGE = re.compile(rf"<img(?=\s){_ATTRIBUTES}>", re.IGNORECASE)  # with attributes: `<img>` alone is a model's own mark
_UNSEEN = (("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>"))
_ABOUT = re.compile(
    r"```|html|css\b|\bxml|<!doctype|<code|<pre|javascript|\bjsx?\b|react|\bvue\b|网页|前端|标签|代码|源码|markup|\btags?\b"
    r"|entit(?:y|ies)|转义",
    re.IGNORECASE,
)
_END = r"[。．.!！?？;；…~～\s]*"


def is_about_markup(texts: Sequence[str]) -> bool:
    """Whether a row speaks of web pages or code: its tags are what it is about."""
    return any(_ABOUT.search(t) for t in texts)


def without_markup(text: str) -> str:
    """A text without the tags and entities that a web page left in it; generic brackets and other marks stay."""
    if "&" in text:
        text = _ENTITY.sub(lambda m: " " if m.group() == "&nbsp;" else html.unescape(m.group()), text)
    if "<" not in text:
        return text
    for begin, end in _UNSEEN:
        text = _cut(text, begin, end)
    text = _BREAK.sub("\n", text)
    low = text.lower()
    paired: dict[str, bool] = {"hr": True}  # asked once a tag: a hostile text holds a hundred thousand

    def replaced(match: re.Match[str], by: str) -> str:
        tag = match["tag"].lower()
        if tag not in paired:
            paired[tag] = f"</{tag}" in low or (tag == "p" and low.count("<p>") > 1)
        sure = match["more"].strip(" /") or paired[tag]
        return by if sure else match.group()  # one `<a>` alone may be anything

    text = _BLOCK.sub(lambda m: replaced(m, "\n"), text)
    return _IMAGE.sub("", _IN_LINE.sub(lambda m: replaced(m, ""), text))


def _cut(text: str, begin: str, end: str) -> str:
    """A text without what stands from `begin` to `end`; by searching, since a pattern is quadratic on hostile texts."""
    low = text.lower()
    if begin not in low or len(low) != len(text):  # a few capitals change their length
        return text
    kept, at = [], 0
    while (start := low.find(begin, at)) >= 0 and (stop := low.find(end, start)) >= 0:
        kept.append(text[at:start])
        at = stop + len(end)
    return "".join([*kept, text[at:]])


@cache
def _phrases() -> tuple[re.Pattern[str], re.Pattern[str]]:
    known = table("boilerplate")
    joined = "|".join(known["phrases"])
    begin = r"(?:^|(?<=[\n。．.!！?？;；）)】\]]))[ \t\u3000]*[（(【\[—-]*"
    end = rf"[）)】\]]*{_END}(?:$|\n|(?<=[。．.!！?？;；…\s]))"
    pattern = f"{begin}(?:{joined}){end}"
    return re.compile("|".join(map(re.escape, known["hints"]))), re.compile(pattern, re.IGNORECASE)


def may_have_phrases(text: str) -> bool:
    """Whether it is worth looking for the standing sentences."""
    return bool(_phrases()[0].search(text.lower()))


def without_phrases(text: str) -> str:
    """A text without the standing sentences of `tables/boilerplate.yaml`; as it is when nothing else would be left."""
    _, pattern = _phrases()
    left = pattern.sub(lambda m: "\n" if m.group().endswith("\n") else "", text).strip()
    return left if any(c.isalnum() for c in left) else text
