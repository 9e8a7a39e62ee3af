"""What all commands share: the global options, the language, texts, help in that language, and the end of a command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from autoswift.domain.task import Language
from autoswift.errors import AutoSwiftError, InputError
from autoswift.tables import has_text, text, use_language

T = TypeVar("T")
_UsageError: Any = typer.BadParameter.__mro__[1]
"""Typer's own class for a wrong command line; where it lives differs between Typer's versions."""


@dataclass
class Settings:
    """The global options of the command that runs now.

    Attributes:
        as_json: stdout takes JSON alone; what a person reads goes to stderr.
        run: the run that an interruption would leave behind, once known.
        chosen: the language was named on the command line, not taken from the locale.
    """

    language: Language = "en"
    chosen: bool = False
    debug: bool = False
    as_json: bool = False
    run: str = ""


current = Settings()


def speak(language: Language) -> None:
    """Settles the language of the command, and that of the errors from the other rooms."""
    current.language = language
    use_language(language)


def language_of(environ: Mapping[str, str]) -> Language:
    """`zh` when the locale variables ask for Chinese, else `en`."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environ.get(name):
            return "zh" if environ[name].lower().startswith("zh") else "en"
    return "en"


def language_for(sentence: str) -> Language:
    """The command's language, or the sentence's own where nothing else says one (no --lang, locale C or none)."""
    locale = next((os.environ[n] for n in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(n)), "C")
    if current.chosen or locale.partition(".")[0] not in ("C", "POSIX"):
        return current.language
    return "zh" if any("\u4e00" <= c <= "\u9fff" for c in sentence) else "en"


def hoisted(args: Sequence[str]) -> tuple[list[str], str | None, bool]:
    """Takes `--lang X` and `--debug` out of the line, wherever they stand before a `--`.

    Returns:
        The rest, the language as given or None, whether debugging is on.
    """
    rest: list[str] = []
    lang: str | None = None
    debug = False
    position = 0
    while position < len(args):
        word = args[position]
        if word == "--":
            rest.extend(args[position:])
            break
        if word == "--debug":
            debug = True
        elif word.startswith("--lang="):
            lang = word.partition("=")[2]
        elif word == "--lang" and position + 1 < len(args):
            position += 1
            lang = args[position]
        else:
            rest.append(word)
        position += 1
    return rest, lang, debug


def say(key: str, **values: object) -> str:
    """A text of this room in the language of the command."""
    return text(f"cli.{key}", current.language, **values)


def _translate(command: Any) -> None:
    """Replaces help keys by texts; done when help is asked for, since the language is known only then."""
    for item in (command, *command.params):
        for attribute in ("help", "short_help", "rich_help_panel"):
            key = getattr(item, attribute, None)
            if isinstance(key, str) and key.startswith("cli.") and has_text(key, current.language):
                setattr(item, attribute, text(key, current.language))


class Command(TyperCommand):
    """A command whose help texts are keys of the catalogue."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the help in the command's language."""
        _translate(self)
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """A group with localised help; the outermost one also ends every command: errors become words and exit codes."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the help in the command's language."""
        _translate(self)
        for command in self.commands.values():
            _translate(command)
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the global options first, so that even `--help` is in the right language."""
        if ctx.parent is not None:
            return list(super().parse_args(ctx, args))
        try:
            return list(super().parse_args(ctx, _take_global(args, ctx)))
        except _UsageError as exc:
            if type(exc).__name__ == "NoArgsIsHelpError":
                raise
            from autoswift.cli import failure

            failure.explain(usage_error(exc, ctx))
            raise typer.Exit(2) from None

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; what goes wrong is explained and becomes the exit code."""
        if ctx.parent is not None:
            return super().invoke(ctx)
        from autoswift.cli import failure

        try:
            return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):
            raise
        except (KeyboardInterrupt, typer.Abort):
            failure.interrupted()
            raise typer.Exit(130) from None
        except AutoSwiftError as exc:
            failure.explain(exc)
            raise typer.Exit(exc.exit_code) from None
        except _UsageError as exc:
            if type(exc).__name__ == "NoArgsIsHelpError":
                raise
            failure.explain(usage_error(exc, ctx))
            raise typer.Exit(2) from None
        except Exception as exc:
            failure.bug(exc)
            raise typer.Exit(4) from None


def _take_global(args: list[str], ctx: Any) -> list[str]:
    """Settles the global options of this command line; returns the rest of it."""
    rest, lang, debug = hoisted(args)
    before = rest[: rest.index("--")] if "--" in rest else rest
    speak(language_of(os.environ))
    current.debug, current.as_json, current.run, current.chosen = debug, "--json" in before, "", lang is not None
    if lang in ("zh", "en"):
        speak("zh" if lang == "zh" else "en")
    elif lang is not None:
        raise typer.BadParameter(say("bad_lang", lang=lang), ctx=ctx, param_hint="--lang")
    return rest


def usage_error(exc: Any, ctx: Any) -> InputError:
    """A wrong command line as an error of ours."""
    path = exc.ctx.command_path if getattr(exc, "ctx", None) else ctx.command_path
    return InputError(str(exc.format_message()), "", say("usage_fix", command=path))


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """`name=value` words as a dict.

    Raises:
        InputError: when one has no `=` or no name.
    """
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise InputError(say("bad_pair", option=option, item=item), "", say("bad_pair_fix", option=option))
        found[name.strip()] = value
    return found


def typed(value: str) -> str | int | float | bool:
    """A value from the command line as the type that it looks like."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def fixed_settings(
    items: list[str] | None,
    executor: str | None = None,
    ray_address: str | None = None,
    objectives: str | None = None,
) -> dict[str, str | int | float | bool]:
    """`--set name=value`, `--executor`, `--ray-address` and `--objectives` as settings.

    Raises:
        InputError: when a cluster's address is given to an executor that has none.
    """
    found = {name: typed(value) for name, value in pairs(items or [], "--set").items()}
    named = {"executor": executor, "ray_address": ray_address, "objectives": objectives}
    found |= {name: value for name, value in named.items() if value is not None}
    if "ray_address" in found and found.get("executor", "ray") != "ray":
        raise InputError(say("ray_local", executor=found["executor"]), "", say("ray_local_fix"))
    return found


Json = Annotated[bool, typer.Option("--json", help="cli.opt.json")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="cli.opt.yes")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="cli.opt.run")]
Sentence = Annotated[str, typer.Argument(metavar="SENTENCE", help="cli.opt.sentence")]
Data = Annotated[str | None, typer.Option("--data", "-d", metavar="FILE", help="cli.opt.data")]
Column = Annotated[list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help="cli.opt.column")]
Redact = Annotated[bool, typer.Option("--redact", help="cli.opt.redact")]
Test = Annotated[str | None, typer.Option("--test", metavar="FILE", help="cli.opt.test")]
Validation = Annotated[str | None, typer.Option("--validation", metavar="FILE", help="cli.opt.validation")]
Goal = Annotated[str | None, typer.Option("--goal", metavar="WORD", help="cli.opt.goal")]
Domain = Annotated[str | None, typer.Option("--domain", metavar="WORD", help="cli.opt.domain")]
Model = Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help="cli.opt.model")]
