"""Whether two answers to a question of arithmetic or algebra are the same: the final answer is found, then compared.

Numbers are compared exactly, as fractions; expressions without a variable by their value; what is left by its letters.
It is meant to be strict: an answer is right only where it says the same as the reference, in whatever notation.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

LONGEST = 200
"""Characters of a final answer that is looked into: a longer one is an explanation, not an answer."""
LARGEST_POWER = 64
"""Exponents beyond it are not worked out: an answer such as 9^9^9 must not stop the evaluation."""
TOLERANCE = 1e-6
"""Relative difference of two values when one of them is not rational (a root, pi): float arithmetic is far below."""
DEEPEST = 40
"""Brackets and signs within each other: deeper ones are no answer, and recursion must end."""

_MARKS = re.compile(
    r"(?:####|final answer(?:\s+is)?|the answer(?:\s+is)?|answer(?:\s+is|\s*[::])|therefore,? (?:it|x|y) (?:is|=)"
    r"|最终答案(?:是|为)?|答案(?:是|为)|答案?\s*[::]|答[::]|因此(?:答案)?(?:是|为)|所以(?:答案)?(?:是|为)?)\s*[::]?\s*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[-+−]?\d[\d,，]*(?:\.\d+)?(?:\s*/\s*[-+]?\d+(?:\.\d+)?)?\s*[%％]?")
_TOKEN = re.compile(r"\d+\.?\d*|\.\d+|sqrt|pi|[-+*/^()%]")
_UNITS = re.compile(
    r"(?<=[\d)])\s*(?:°|degrees?|dollars?|euros?|元|块|个|人|只|本|米|厘米|千米|公里|克|千克|公斤|小时|分钟|秒|天|岁|度|升|"
    r"cm|km|kg|m|g|s|h|hours?|minutes?|seconds?|days?|years?|apples?|miles?|units?)\s*$",
    re.IGNORECASE,
)


def final_answer(text: str) -> str:
    r"""What an answer comes to: the last \boxed{…}, what follows the last "the answer is", or the whole text.

    An answer of many words without either is taken by its last number, as is the custom with chains of thought.
    """
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    marks = list(_MARKS.finditer(text))
    if marks:
        line = text[marks[-1].end() :].strip().splitlines()
        if line:
            return _first_sentence(line[0])
    whole = text.strip()
    numbers = _NUMBER.findall(whole)
    if not numbers or value_of(whole) is not None or re.fullmatch(r"[-\d\s.,;，；/()\[\]{}]+", whole):
        return whole
    words = re.findall(r"[^\W\d_]{3,}|[\u4e00-\u9fff]", re.sub(r"\\[a-z]+", "", whole))
    return numbers[-1] if words else whole


def _boxed(text: str) -> str | None:
    begin = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if begin < 0:
        return None
    start = text.index("{", begin) + 1
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


def _first_sentence(line: str) -> str:
    """Up to the end of the sentence; a point between digits is none."""
    return re.split(r"(?<!\d)[.。;；!！](?:\s|$)|[.。;；](?=\s|$)|。|；", line, maxsplit=1)[0].strip()


def same_answer(answer: str, reference: str) -> bool:
    """Whether the final answers are equal: as numbers, as expressions, or letter by letter."""
    wanted, got = final_answer(reference), final_answer(answer)
    if _letters(got) == _letters(wanted):
        return bool(_letters(wanted)) or not answer.strip()
    if value_of(wanted) is not None and value_of(got) is None:
        numbers = _NUMBER.findall(got)  # "the answer is 5 baskets": what is asked is a number
        got = numbers[-1] if numbers else got
    parts, others = _parts(wanted), _parts(got)
    if len(parts) > 1 or len(others) > 1:  # pairs and lists, in order
        return len(parts) == len(others) and all(_same_value(a, b) for a, b in zip(others, parts, strict=True))
    return _same_value(got, wanted)


def exact_match_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the final answers are the same, else 0."""
    return [float(same_answer(a, r)) for a, r in zip(answers, references, strict=True)]


def _parts(text: str) -> list[str]:
    inner = text.strip().strip("()[]{}（）【】 ")
    # A comma between groups of three digits belongs to a number.
    return [p for p in re.split(r"[,，;；](?!\d{3}(?!\d))|\band\b|和", inner) if p.strip()]


def _same_value(left: str, right: str) -> bool:
    one, other = value_of(left), value_of(right)
    if one is None or other is None:
        return bool(_letters(left)) and _letters(left) == _letters(right)
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    return math.isclose(float(one), float(other), rel_tol=TOLERANCE, abs_tol=1e-12)


def _letters(text: str) -> str:
    r"""Without spaces, case, dollar signs, \text{} and full stops."""
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = re.sub(r"\\(?:text|mathrm|mathbf|left|right|,|!|;| )", "", plain)
    return re.sub(r"[\s$\\{}。.*]+$|[\s$\\{}*]", "", plain)


def value_of(text: str) -> Fraction | float | None:
    """The value of a number or an expression without variables; None where it is neither."""
    plain = _plain(text)
    if not plain or len(plain) > LONGEST:
        return None
    tokens = _TOKEN.findall(plain)
    if "".join(tokens) != plain:
        return None
    try:
        reader = _Reader(tokens)
        value = reader.sum(0)
        return value if reader.place == len(tokens) else None
    except (ValueError, ZeroDivisionError, OverflowError, IndexError):
        return None


def _plain(text: str) -> str:
    """LaTeX, Chinese and typographic notation as digits and + - * / ^ ( )."""
    plain = unicodedata.normalize("NFKC", text).strip().strip("$").strip()
    plain = re.sub(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)", r"((\1)/(\2))", plain)
    for _ in range(4):  # fractions within fractions
        plain = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", plain)
        plain = re.sub(r"\\?sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", plain)
        plain = re.sub(r"\^\{([^{}]*)\}", r"^(\1)", plain)
    plain = re.sub(r"\\text\s*\{[^{}]*\}", "", plain)
    plain = re.sub(r"^[A-Za-z]\s*[=≈]\s*", "", plain)
    for old, new in (("\\times", "*"), ("×", "*"), ("\\cdot", "*"), ("·", "*"), ("\\div", "/"), ("÷", "/"),
                     ("−", "-"), ("–", "-"), ("\\pi", "pi"), ("π", "pi"), ("√", "sqrt"), ("⁄", "/"), ("\\%", "%"),
                     ("\\$", ""), ("$", ""), ("¥", ""), ("€", ""), ("£", ""), ("\\left", ""), ("\\right", ""),
                     ("\\,", ""), ("\\!", ""), ("**", "^")):  # fmt: skip
        plain = plain.replace(old, new)
    plain = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", plain)
    plain = _UNITS.sub("", plain.strip().rstrip(".。"))
    plain = re.sub(r"^(\d+)\s+(\d+)\s*/\s*(\d+)$", r"(\1+\2/\3)", plain)  # 1 1/2
    return re.sub(r"\s+", "", plain).replace("{", "(").replace("}", ")").lower()


class _Reader:
    """A recursive descent over tokens; values are fractions as long as they can be."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def sum(self, depth: int) -> Fraction | float:
        if depth > DEEPEST:
            raise ValueError("too deep")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = value + sign * self.product(depth)
        return value

    def product(self, depth: int) -> Fraction | float:
        value = self.power(depth)
        while True:
            word = self.peek()
            if word == "*":
                self.take()
                value = value * self.power(depth)
            elif word == "/":
                self.take()
                value = value / self.power(depth)
            elif word in ("(", "sqrt", "pi"):  # 2sqrt(3), 3(4)
                value = value * self.power(depth)
            else:
                return value

    def power(self, depth: int) -> Fraction | float:
        if self.peek() in ("-", "+"):
            sign = 1 if self.take() == "+" else -1
            if depth > DEEPEST:
                raise ValueError("too deep")
            return sign * self.power(depth + 1)
        value = self.atom(depth)
        if self.peek() == "^":
            self.take()
            exponent: Fraction | float = self.power(depth + 1)
            if depth > DEEPEST or abs(float(exponent)) > LARGEST_POWER:
                raise ValueError("too large")
            whole = isinstance(exponent, Fraction) and exponent.denominator == 1
            made = value ** (int(exponent) if whole else float(exponent))
            if isinstance(made, complex):
                raise ValueError("not real")
            value = made
        while self.peek() == "%":
            self.take()
            value = value / 100
        return value

    def atom(self, depth: int) -> Fraction | float:
        word = self.take()
        if word == "(":
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise ValueError("bracket")
            return value
        if word == "sqrt":
            inside = self.atom(depth + 1)
            root = math.isqrt(int(inside)) if inside >= 0 and inside == int(inside) else None
            return Fraction(root) if root is not None and root * root == inside else math.sqrt(inside)
        if word == "pi":
            return math.pi
        return Fraction(word if not word.endswith(".") else word[:-1])
