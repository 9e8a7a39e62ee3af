"""Which models may be used: `$AUTOSWIFT_HOME/policy.yaml`, and the overrides that a person gave by hash.

```yaml
version: 1
rules:                        # the first that fits decides
  - {action: deny, org: some-org, reason: not vetted}
  - {action: allow, model: "Qwen/*"}
  - {action: allow, model: my-org/my-model, sha256: 3f…}   # a model's fingerprint, or one of its files
default: {catalogue: allow, folder: allow, other: ask}
```
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoswift.catalog.models import catalog
from autoswift.errors import InputError, ModelError
from autoswift.run.files import append_line, plain, read_lines
from autoswift.run.places import home
from autoswift.tables import explain, told

Action = Literal["allow", "ask", "deny"]
DEFAULTS: dict[str, Action] = {"catalogue": "allow", "folder": "allow", "other": "ask"}
"""The catalogue was looked through by people; a folder is the user's own; anything else, a person has to say."""
LARGEST = 2**20
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model that is to be used.

    Attributes:
        location: hub id, packaged name or folder.
        fingerprint: of all that it is made of, see `fingerprint`.
        files: name to SHA-256. unproven: files of which the hub tells no hash.
    """

    source: str
    location: str
    revision: str = ""
    fingerprint: str = ""
    files: dict[str, str] = field(default_factory=dict)
    unproven: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A line of the policy; empty fields fit everything."""

    action: Action
    org: str = ""
    model: str = ""
    sha256: str = ""
    source: str = ""
    reason: str = ""
    line: int = 0

    def fits(self, subject: Subject) -> bool:
        """Whether it speaks of that model."""
        org = subject.location.partition("/")[0] if subject.source in ("huggingface", "modelscope") else ""
        if self.source and self.source != subject.source:
            return False
        if self.org and not fnmatch.fnmatchcase(org.lower(), self.org.lower()):
            return False
        if self.model and not fnmatch.fnmatchcase(subject.location.lower(), self.model.lower()):
            return False
        return not self.sha256 or self.sha256 == subject.fingerprint or self._by_file(subject)

    def _by_file(self, subject: Subject) -> bool:
        """One file's hash condemns a model; to clear it, all of them must be meant."""
        return self.action != "allow" and self.sha256 in subject.files.values()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules in their order, and what holds where none fits."""

    rules: tuple[Rule, ...] = ()
    default: dict[str, Action] = field(default_factory=lambda: dict(DEFAULTS))
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A person's word for one model, by its fingerprint; `by`: command or question."""

    source: str
    location: str
    sha256: str
    reason: str
    by: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the policy says of a model, for the journal and the report.

    Attributes:
        because: rule, override, catalogue, folder, other or unproven.
        rule: the rule that decided, where one did. override: where one did.
    """

    action: Action
    because: str
    subject: Subject
    rule: Rule | None = None
    override: Override | None = None

    def record(self) -> dict[str, Any]:
        """For the journal: {action, because, model, source, revision, fingerprint, unproven, rule, override}."""
        about = self.subject
        return {
            "action": self.action,
            "because": self.because,
            "model": about.location,
            "source": about.source,
            "revision": about.revision,
            "fingerprint": about.fingerprint,
            "unproven": list(about.unproven),
            "rule": plain(self.rule),
            "override": plain(self.override),
        }


Confirm = Callable[[Verdict], bool]
"""Asks a person whether a model may be used."""


def policy_path() -> Path:
    """`$AUTOSWIFT_HOME/policy.yaml`."""
    return home() / "policy.yaml"


def overrides_path() -> Path:
    """`$AUTOSWIFT_HOME/overrides.jsonl`: every override ever given, one a line; nothing is taken out."""
    return home() / "overrides.jsonl"


def fingerprint(files: dict[str, str]) -> str:
    """One SHA-256 for a model: of `<sha256>  <name>` lines, sorted by name, as sha256sum prints them.

    Licence texts are left out: the same model has the same fingerprint with and without them.
    """
    import hashlib

    from autoswift.catalog.names import is_licence

    lines = [f"{digest}  {name}\n" for name, digest in sorted(files.items()) if not is_licence(name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def judge(subject: Subject, policy: Policy | None = None) -> Verdict:
    """What holds for a model: the first rule that fits, else an override, else the default of its kind.

    A `deny` of the policy is above every override: who wants it otherwise changes the policy.

    Args:
        subject: the model.
        policy: None reads it.

    Raises:
        InputError: when the policy's file is not one.
    """
    policy = policy or load()
    rule = next((rule for rule in policy.rules if rule.fits(subject)), None)
    if rule is not None and rule.action == "deny":
        return Verdict(action="deny", because="rule", subject=subject, rule=rule)
    given = override_of(subject)
    if given is not None:
        return Verdict(action="allow", because="override", subject=subject, rule=rule, override=given)
    kind = rule.action if rule else policy.default[_kind(subject)]
    because = "rule" if rule else _kind(subject)
    if kind == "allow" and subject.unproven and not (rule and rule.sha256):
        return Verdict(action="ask", because="unproven", subject=subject, rule=rule)
    return Verdict(action=kind, because=because, subject=subject, rule=rule)


def enforce(verdict: Verdict, confirm: Confirm | None = None) -> Verdict:
    """Lets an allowed model pass, asks for one that is to be asked for, and ends on a denied one.

    Args:
        verdict: from `judge`.
        confirm: asks a person; None: there is nobody to ask. A yes is kept as an override by the model's fingerprint.

    Returns:
        The verdict under which the model is used.

    Raises:
        ModelError: denied, or not confirmed.
    """
    about = verdict.subject
    if verdict.action == "allow":
        return verdict
    if verdict.action == "deny":
        rule = verdict.rule
        where = f"{policy_path()}:{rule.line}" if rule and rule.line else str(policy_path())
        why = rule.reason if rule else ""
        raise ModelError(*explain("policy.denied", model=about.location, where=where, reason=why))
    if confirm is not None and confirm(verdict):
        given = allow(about, told("policy.answered"), by="question")
        return Verdict(action="allow", because="override", subject=about, rule=verdict.rule, override=given)
    raise ModelError(
        *explain(
            "policy.unproven" if verdict.because == "unproven" else "policy.ask",
            model=about.location,
            id=_reference(about),
            fingerprint=about.fingerprint,
            files=", ".join(about.unproven[:3]),
            policy=policy_path(),
        )
    )


def allow(subject: Subject, reason: str, *, by: str = "command") -> Override:
    """Writes an override: this model, with just these hashes, may be used.

    Args:
        subject: with its fingerprint.
        reason: as the person gives it.
        by: command or question.

    Raises:
        InputError: without a fingerprint.
    """
    if not _HASH.fullmatch(subject.fingerprint):
        raise InputError(*explain("policy.no_hash", model=subject.location))
    given = Override(
        source=subject.source,
        location=subject.location,
        sha256=subject.fingerprint,
        reason=reason,
        by=by,
        time=time.time(),
    )
    append_line(overrides_path(), given)
    return given


def overrides() -> list[Override]:
    """All overrides, oldest first."""
    names = ("source", "location", "sha256", "reason", "by")
    rows = read_lines(overrides_path())
    good = [row for row in rows if all(isinstance(row.get(name), str) for name in names)]
    return [Override(**{name: row[name] for name in names}, time=float(row.get("time") or 0.0)) for row in good]


def override_of(subject: Subject) -> Override | None:
    """The newest override for exactly this model with exactly these hashes."""
    hits = [one for one in overrides() if subject.fingerprint and one.sha256 == subject.fingerprint]
    return next((one for one in reversed(hits) if one.location == subject.location), None)


def in_catalogue(source: str, location: str) -> bool:
    """Whether it is a model of the catalogue, at the very place that the catalogue names."""
    place = {"huggingface": "hf", "modelscope": "ms", "packaged": "packaged"}.get(source)
    return bool(place) and any(getattr(one, str(place)) == location for one in catalog())


def _kind(subject: Subject) -> str:
    if subject.source == "folder":
        return "folder"
    return "catalogue" if in_catalogue(subject.source, subject.location) else "other"


def _reference(subject: Subject) -> str:
    prefix = {"huggingface": "hf://", "modelscope": "ms://"}.get(subject.source, "")
    return prefix + subject.location


def load(path: Path | None = None) -> Policy:
    """Reads the policy; without a file the defaults hold.

    Args:
        path: None is `policy_path()`.

    Raises:
        InputError: naming file, line and what is wrong. A policy that cannot be read is never taken for none.
    """
    from autoswift.catalog.policy_file import read_policy

    path = path or policy_path()
    if not path.exists():
        return Policy()
    rules, default = read_policy(path, LARGEST)
    return Policy(rules=tuple(Rule(**row) for row in rules), default=DEFAULTS | default, path=str(path))
