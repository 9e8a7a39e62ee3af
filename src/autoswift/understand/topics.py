"""What a sentence is about, in the words that data sets carry: table `sourcing`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from autoswift.domain.profile import TaskProfile
from autoswift.tables import table

_HAN = re.compile(r"[\u4e00-\u9fff]")
_NOT = re.compile(r"(?:不要|不是|不用|不做|别|而非|无需|\bnot\b|\bno\b|\bwithout\b|\bnever\b)[^,.;，。；]{0,12}$")
"""A topic within a dozen characters behind one of these is what the user does not want."""
PREFIX_FROM = 5
"""Latin words from this length match what begins with them (legal: legally), shorter ones their plural (law: laws)."""
MENTIONED = 0.3
"""Worth of a topic that the sentence only mentions, against 1 of what it is about."""
BY_DOMAIN = 0.8
"""Worth of a topic that follows from the domain alone."""
DESCRIBED = 0.6
"""Worth of a word that only the description has: descriptions also say what a set is not about."""


@dataclass(frozen=True, slots=True)
class Topics:
    """What to look for.

    Attributes:
        main: topics that the task is about. mentioned: others that the sentence names.
        said: the sentence itself names the main ones; otherwise they follow from the domain or the goal.
    """

    main: tuple[str, ...]
    mentioned: tuple[str, ...]
    said: bool

    def searches(self) -> list[str]:
        """What to ask hubs for, most telling first."""
        words = [word for name in self.main for word in table("sourcing")["topics"][name]["search"]]
        return list(dict.fromkeys(words))

    def words(self) -> str:
        """The topics in the cards' own words, for a comparison of meaning."""
        topics = table("sourcing")["topics"]
        return " ".join(word for name in self.main for word in topics[name]["card"][:6])

    def worth(self, names: str, description: str) -> tuple[float, list[str]]:
        """How far a card is about them, 0 to 1, and the words that say so.

        Args:
            names: of the data set, with its tags.
            description: the rest of what its card says.
        """
        best, found = 0.0, list[str]()
        for topics, value in ((self.main, 1.0 if self.said else BY_DOMAIN), (self.mentioned, MENTIONED)):
            for name in topics:
                words = table("sourcing")["topics"][name]["card"]
                hits = [word for word in words if _card_word(word).search(names)]
                share = 1.0 if hits else DESCRIBED
                hits = hits or [word for word in words if _card_word(word).search(description)]
                if hits and value * share > best:
                    best, found = value * share, hits
        return best, found


def topics_of(profile: TaskProfile) -> Topics:
    """What a task is about: the topics its sentence names that belong to its domain; else the domain's own."""
    rules = table("sourcing")
    text = profile.text.lower()
    named = [name for name, topic in rules["topics"].items() if _said(text, topic["said"])]
    family = rules["families"].get(profile.domain)
    main = [name for name in named if family is None or name in family]
    main = [name for name in main if name not in rules["forms"]] or main
    if main:
        return Topics(tuple(main), tuple(n for n in named if n not in main), said=True)
    default = rules["domains"].get(profile.domain, ())
    if profile.domain == "general":
        default = rules["goals"].get(profile.goal, default)
    return Topics(tuple(default), tuple(n for n in named if n not in default), said=False)


def has_word(words: Iterable[str], text: str) -> bool:
    """Whether one of the words stands in a lower-case text."""
    return any(_card_word(word).search(text) for word in words)


def _said(text: str, words: Iterable[str]) -> bool:
    for word in words:
        for match in _sentence_word(word).finditer(text):
            if not _NOT.search(text[: match.start()]):
                return True
    return False


@cache
def _sentence_word(word: str) -> re.Pattern[str]:
    if _HAN.search(word):
        return re.compile(re.escape(word))
    ending = "[a-z]*" if len(word) >= PREFIX_FROM else "(?:s|es)?"
    return re.compile(rf"(?<![a-z]){re.escape(word)}{ending}(?![a-z])")


@cache
def _card_word(word: str) -> re.Pattern[str]:
    """In names, words are parted by anything but letters and digits; a hyphen stands for any of that."""
    if _HAN.search(word):
        return re.compile(re.escape(word))
    plain = re.escape(word).replace(r"\-", r"[^a-z0-9]?").replace("_", r"[^a-z0-9]?")
    ending = "[a-z]*" if len(word) >= PREFIX_FROM else "s?"
    return re.compile(rf"(?<![a-z0-9]){plain}{ending}(?![a-z0-9])")
