"""Write two small, wholly made-up customer-service chat sets: one Chinese, one English.

The phrase tables stand beside this file in phrases_zh.json and phrases_en.json; this file only picks from
them and joins what it picked. The same seed always gives the same bytes.

Usage: python examples/make_customer_chat.py [--seed 7] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- NOISE:BEGIN -->", "<!-- NOISE:END -->"
FULL_WIDTH = {ord(digit): 0xFF10 + int(digit) for digit in string.digits}

Table = dict[str, Any]
Slots = dict[str, str]


@dataclass
class Dialogue:
    """One dialogue: its topic, an optional system prompt and the (user, assistant) rounds."""

    topic: str
    rounds: list[list[str]]
    slots: Slots
    system: str = ""

    def key(self) -> str:
        """Returns what makes two dialogues the same: every text in them."""
        return json.dumps([self.system, self.rounds], ensure_ascii=False)


@dataclass
class Writer:
    """Composes dialogues of one language from its phrase table.

    Attributes:
        table: The phrase table as read from its JSON file.
        rng: The source of every choice.
        used: Answers given so far, so that fresh wordings are preferred.
    """

    table: Table
    rng: random.Random
    used: Counter[str] = field(default_factory=Counter)

    def length(self, text: str) -> int:
        """Returns the length of a text: words where the language has spaces, otherwise characters."""
        return len(text.split()) if self.table["sep"] else len(text)

    def draw_slots(self, cats: str) -> Slots:
        """Draws the facts of one dialogue: product, order number, sizes, prices and so on.

        Args:
            cats: Letters of the product categories allowed; empty for all.
        """
        rng, table = self.rng, self.table
        product = rng.choice([p for p in table["products"] if not cats or p["cat"] in cats])
        other = rng.choice([p for p in table["products"] if p["p"] != product["p"]])
        slots = {name: rng.choice(values) for name, values in table["slots"].items()}
        slots |= {"p": product["p"], "m": product.get("m", ""), "fault": rng.choice(product["faults"])}
        slots |= {"w": other["p"], "wm": other.get("m", ""), "n": f"{rng.randrange(1000, 10000)}"}
        low, high = table["prices"][product["cat"]]
        price = rng.randrange(low, high + 1)
        cut = max(3, round(price * rng.uniform(0.06, 0.2)))
        slots |= {"price": str(price), "x": str(cut), "low": str(price - cut)}
        sizes = table["sizes"].get(product["cat"], ["", ""])
        at = rng.randrange(len(sizes) - 1)
        return slots | {"s1": sizes[at], "s2": sizes[at + 1]}

    def join(self, parts: list[str], slots: Slots) -> str:
        """Fills the slots in the parts and joins those that are not empty."""
        text: str = self.table["sep"].join(part for part in parts if part)
        return text.format_map(slots)

    def answer(self, choices: list[list[str]], slots: Slots, said: str = "") -> str:
        """Composes an answer of the allowed length, preferring one not given before.

        Args:
            choices: For each place in the answer, the phrases it may hold.
            slots: The facts of the dialogue.
            said: What the agent said before in this dialogue; its opening words are not taken again.
        """
        low, high = self.table["answer_length"]
        best = ""
        for _ in range(60):
            parts = [self.rng.choice(options) for options in choices]
            text = self.join(parts, slots)
            if parts[0] in said or not low <= self.length(text) <= high or text.count(self.table["once"]) > 1:
                continue
            if not best or self.used[text] < self.used[best]:
                best = text
            if not self.used[best]:
                break
        if not best:
            raise ValueError(f"no answer of {low} to {high} can be made from {choices}")
        self.used[best] += 1
        return best

    def question(self, intent: Table, slots: Slots) -> tuple[str, str]:
        """Composes the first user turn.

        Args:
            intent: The intent asked about.
            slots: The facts of the dialogue.

        Returns:
            The text and the group of opening phrases that suits its mood.
        """
        rng, table = self.rng, self.table
        mood = rng.choices(["calm", "story", "angry"], [70, 18, 24 if intent.get("blame") else 0])[0]
        opening, core = rng.choice(table["mood"][mood]), rng.choice(intent["q"])
        if not opening or opening.endswith(tuple(table["stops"])):
            core = core[0].upper() + core[1:]
        text = self.join([opening, core], slots)
        text = self.finish(text, "" if mood == "angry" else rng.choice(table["tail"]))
        return text, "angry" if mood == "angry" else intent["ack"]

    def finish(self, text: str, tail: str) -> str:
        """Ends a user turn with a tail or, now and then, with a mark."""
        table = self.table
        if tail:
            return f"{text}{table['tail_join']}{tail}"
        if text.endswith(tuple(table["stops"])):
            return text
        asks = text.endswith(tuple(table["ask_ends"]))
        marks: list[str] = ["", table["ask_mark"]] if asks else table["marks"]
        return text + self.rng.choice(marks)

    def follow(self, names: list[str], said: str, slots: Slots) -> tuple[str, list[str]] | None:
        """Composes a later round about something the agent has not said yet.

        Args:
            names: The follow-up questions left for this dialogue.
            said: All the agent has said so far.
            slots: The facts of the dialogue.

        Returns:
            The name used and its round, or None where nothing is left to ask.
        """
        table = self.table
        fits = [n for n in names if not any(s.format_map(slots) in said for s in table["follow"][n]["skip"])]
        if not fits:
            return None
        name = self.rng.choice(fits)
        item = table["follow"][name]
        asked = self.finish(self.join([self.rng.choice(item["q"])], slots), "")
        return name, [asked, self.answer([table["ack"]["follow"], item["a"]], slots, said)]

    def dialogue(self) -> Dialogue:
        """Composes one clean dialogue of one to three rounds."""
        rng, table = self.rng, self.table
        intent = rng.choices(table["intents"], [i["w"] for i in table["intents"]])[0]
        slots = self.draw_slots(intent.get("cats", ""))
        asked, ack = self.question(intent, slots)
        rounds = [[asked, self.answer([table["ack"][ack], intent["a"], intent["p"]], slots)]]
        left = list(intent["follow"])
        wanted = rng.choices([1, 2, 3], table["rounds"])[0]
        while len(rounds) < wanted:
            said = " ".join(turn[1] for turn in rounds)
            made = None
            if len(rounds) + 1 < wanted or rng.random() < table["ask_again"]:
                made = self.follow(left, said, slots)
            if made is None:
                closing = table["closing"]
                answer = self.answer([closing["a1"], closing["a2"], closing["a3"]], slots, said)
                rounds.append([self.join([rng.choice(closing["q"])], slots), answer])
                break
            left.remove(made[0])
            if table["follow"][made[0]].get("last"):
                left = []
            rounds.append(made[1])
        return Dialogue(intent["topic"], rounds, slots)


def fake_person(table: Table, rng: random.Random) -> Slots:
    """Makes up a person. The identity numbers are not valid ones."""
    data = table["pii_slots"]
    name = rng.choice(data["surname"]) + table["sep"] + rng.choice(data["given"])
    if table["sep"]:
        name = f"{rng.choice(data['given'])} {rng.choice(data['surname'])}"
        phone = f"{rng.randrange(201, 990)}-555-01{rng.randrange(100):02d}"
        idno = f"000-{rng.randrange(1, 100):02d}-{rng.randrange(1, 10000):04d}"
    else:
        phone = f"{rng.choice(['138', '139', '150', '186'])}0000{rng.randrange(10000):04d}"
        idno = fake_identity(rng)
    addr = rng.choice(data["addr"]).format(a=rng.randrange(1, 300), b=rng.randrange(101, 2500))
    email = f"{rng.choice(data['mail'])}{rng.randrange(10, 1000)}@example.com"
    return {"name": name, "phone": phone, "idno": idno, "addr": addr, "email": email}


def fake_identity(rng: random.Random) -> str:
    """Makes an 18-digit number shaped like a Chinese identity number whose check digit is wrong."""
    born = f"{rng.randrange(1960, 2005)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    body = f"99{rng.randrange(10000):04d}{born}{rng.randrange(1000):03d}"
    total = sum(int(digit) * 2 ** (17 - at) for at, digit in enumerate(body))
    right = (12 - total % 11) % 11
    return body + str((right + 3) % 10 if right < 10 else 5)


def add_typo(dialogue: Dialogue, table: Table, rng: random.Random) -> bool:
    """Puts one or two misspellings into the user turns; tells whether anything changed."""
    pairs = list(table["typos"])
    rng.shuffle(pairs)
    wanted, done = rng.choice([1, 1, 2]), 0
    for right, wrong in pairs:
        for turn in dialogue.rounds:
            if done < wanted and right in turn[0]:
                turn[0] = turn[0].replace(right, wrong, 1)
                done += 1
    return done > 0


def add_pii(dialogue: Dialogue, table: Table, rng: random.Random) -> bool:
    """Puts made-up personal data at the end of the user's first turn."""
    text = dialogue.rounds[0][0]
    glue = table["sep"] if text.endswith(tuple(table["stops"])) else table["tail_join"]
    dialogue.rounds[0][0] = text + glue + rng.choice(table["pii"]).format_map(fake_person(table, rng))
    return True


def add_spacing(dialogue: Dialogue, table: Table, rng: random.Random) -> bool:
    """Puts stray blanks or odd punctuation into one turn; tells whether anything changed."""
    old, new = rng.choice(table["spacing"])
    turn = rng.choice(dialogue.rounds)
    side = rng.choice([0, 0, 0, 1]) if not new.strip() and old in "^$" else 0
    text = turn[side]
    changed = {"^": new + text, "$": text + new, "digits": text.translate(FULL_WIDTH)}
    turn[side] = changed.get(old, text.replace(old, new, 1))
    return turn[side] != text


def add_emoji(dialogue: Dialogue, table: Table, rng: random.Random) -> bool:
    """Puts an emoji after one user turn."""
    rng.choice(dialogue.rounds)[0] += rng.choice(table["emoji"]) * rng.choice([1, 1, 2])
    return True


def add_empty(dialogue: Dialogue, table: Table, rng: random.Random) -> bool:
    """Empties one turn, of the user or of the agent."""
    rng.choice(dialogue.rounds)[rng.randrange(2)] = ""
    return True


NOISE = {"typo": add_typo, "pii": add_pii, "spacing": add_spacing, "emoji": add_emoji, "empty": add_empty}


def build(table: Table, rng: random.Random) -> list[Dialogue]:
    """Builds all dialogues of one language, noise and duplicates included.

    Each kind of noise goes to dialogues of its own, and only clean ones are duplicated, so the counts in the
    table are exact.

    Args:
        table: The phrase table.
        rng: The source of every choice.
    """
    counts, writer = table["counts"], Writer(table, rng)
    dialogues: list[Dialogue] = []
    seen: set[str] = set()
    while len(dialogues) < counts["total"] - counts["duplicate"]:
        made = writer.dialogue()
        first = made.rounds[0][0]
        if first not in seen:
            seen.add(first)
            dialogues.append(made)
    for one in rng.sample(dialogues, counts["system"]):
        one.system = rng.choice(table["system"])
    order = rng.sample(dialogues, len(dialogues))
    for kind, add in NOISE.items():
        done = 0
        for one in list(order):
            if done < counts[kind] and add(one, table, rng):
                order.remove(one)
                done += 1
        if done < counts[kind]:
            raise ValueError(f"only {done} dialogues took the noise {kind}")
    for one in order[: counts["duplicate"]]:
        dialogues.append(Dialogue(one.topic, [list(turn) for turn in one.rounds], one.slots, one.system))
    rng.shuffle(dialogues)
    return dialogues


def as_messages(at: int, dialogue: Dialogue) -> Table:
    """Shapes a dialogue as an id and a list of role and content."""
    messages = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
    for asked, answer in dialogue.rounds:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"id": f"zh-{at:04d}", "messages": messages}


def as_sharegpt(dialogue: Dialogue) -> Table:
    """Shapes a dialogue as ShareGPT conversations."""
    turns = [{"from": "system", "value": dialogue.system}] if dialogue.system else []
    for asked, answer in dialogue.rounds:
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"conversations": turns}


def measure(dialogues: list[Dialogue], writer: Writer) -> dict[str, str]:
    """Measures what was built, as text for the summary."""
    turns = [turn for one in dialogues for turn in one.rounds]
    answers = [turn[1] for turn in turns if turn[1]]
    lengths = [sum(writer.length(text) for turn in one.rounds for text in turn) for one in dialogues]
    topics = Counter(one.topic for one in dialogues)
    rounds = Counter(len(one.rounds) for one in dialogues)
    unit = "words" if writer.table["sep"] else "characters"
    repeats = len(dialogues) - len({one.key() for one in dialogues})
    return {
        "dialogues": str(len(dialogues)),
        "of 1, 2 and 3 rounds": ", ".join(str(rounds[n]) for n in (1, 2, 3)),
        "with a system prompt": str(sum(bool(one.system) for one in dialogues)),
        "mean length over all turns": f"{sum(lengths) / len(lengths):.1f} {unit}",
        "distinct answers": f"{len(set(answers))} of {len(answers)} ({len(set(answers)) / len(answers):.0%})",
        "exact repeats measured": str(repeats),
        "topics": ", ".join(f"{name} {count}" for name, count in topics.most_common()),
    }


def summary(seed: int, tables: dict[str, Table], measured: dict[str, dict[str, str]]) -> str:
    """Writes the counts as the two Markdown tables that go into README.md."""
    names = list(tables)
    head = ["| | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---|" * len(names)]
    lines = [BEGIN, f"Written by the generator with seed {seed}.", "", *head]
    for label in measured[names[0]]:
        lines.append(f"| {label} | " + " | ".join(measured[name][label] for name in names) + " |")
    lines += ["", "Noise put in on purpose (number of dialogues; no dialogue has two kinds):", "", *head]
    for kind, label in tables[names[0]]["noise_labels"].items():
        lines.append(f"| {label} | " + " | ".join(str(tables[name]["counts"][kind]) for name in names) + " |")
    return "\n".join([*lines, END])


def main(argv: list[str] | None = None) -> None:
    """Writes both files and refreshes the counts in README.md where one stands beside them.

    Args:
        argv: The command line; that of the process by default.
    """
    parser = argparse.ArgumentParser(description="Write the example customer-service chats.")
    parser.add_argument("--seed", type=int, default=7, help="seed of every choice (default: 7)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this file's)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    sources = {"customer_chat.json": "phrases_zh.json", "customer_chat_en.jsonl": "phrases_en.json"}
    tables: dict[str, Table] = {}
    measured: dict[str, dict[str, str]] = {}
    for name, source in sources.items():
        table = tables[name] = json.loads((HERE / source).read_text(encoding="utf-8"))
        rng = random.Random(f"{args.seed}/{name}")  # noqa: S311 -- sample data, no secret
        dialogues = build(table, rng)
        measured[name] = measure(dialogues, Writer(table, rng))
        if name.endswith(".jsonl"):
            text = "\n".join(json.dumps(as_sharegpt(one), ensure_ascii=False) for one in dialogues)
        else:
            rows = [as_messages(at, one) for at, one in enumerate(dialogues, 1)]
            text = json.dumps(rows, ensure_ascii=False, indent=2)
        (args.out / name).write_text(text + "\n", encoding="utf-8", newline="\n")
    counts = summary(args.seed, tables, measured)
    print(counts)
    readme = args.out / "README.md"
    if readme.exists():
        before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        if rest:
            text = before + counts + rest.partition(END)[2]
            readme.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
