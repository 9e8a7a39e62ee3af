"""Which models may be used, who said so, and what the files of one that may be used must not hold."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.catalog import policy
from autoswift.catalog.models import all_models
from autoswift.catalog.policy import Subject, allow, enforce, fingerprint, judge, load
from autoswift.errors import InputError, ModelError
from autoswift.testing.model_hub import changed
from unit.trust import BOTH, ID, bring, hub, published, sha256

__all__ = ["hub"]
HASH = "ab" * 32


def write(text: str) -> None:
    policy.policy_path().write_text(text, encoding="utf-8")


def subject(location: str = "owner/name", source: str = "huggingface", **fields: object) -> Subject:
    return Subject(source=source, location=location, fingerprint=HASH, **fields)  # type: ignore[arg-type]


def test_without_a_policy_the_catalogue_is_allowed_and_others_are_asked_for():
    known = next(one for one in all_models() if one.hf and one.ms)
    assert judge(subject(known.hf)).action == "allow"
    assert judge(subject(known.ms, "modelscope")).action == "allow"
    assert judge(subject("owner/name")).action == "ask"
    assert judge(subject(known.hf.replace("/", "-x/"))).action == "ask"
    assert judge(subject("/home/me/model", "folder")).action == "allow"


def test_a_model_whose_hashes_nobody_tells_is_asked_for_even_from_the_catalogue():
    known = next(one for one in all_models() if one.hf)
    assert judge(subject(known.hf, unproven=("config.json",))).because == "unproven"


@pytest.mark.parametrize(
    ("rules", "location", "action"),
    [
        ("[{action: deny, org: evil}, {action: allow, model: '*'}]", "evil/x", "deny"),
        ("[{action: deny, org: evil}, {action: allow, model: '*'}]", "good/x", "allow"),
        ("[{action: allow, model: 'evil/x-*'}, {action: deny, org: evil}]", "evil/x-7b", "allow"),
        ("[{action: allow, model: 'evil/x-*'}, {action: deny, org: evil}]", "EVIL/y", "deny"),
        (f"[{{action: allow, model: owner/name, sha256: '{HASH}'}}]", "owner/name", "allow"),
        (f"[{{action: allow, model: owner/name, sha256: '{'0' * 64}'}}]", "owner/name", "ask"),
        ("[{action: deny, source: huggingface}]", "owner/name", "deny"),
        ("[{action: allow, source: modelscope}]", "owner/name", "ask"),
    ],
)
def test_the_first_rule_that_fits_decides(rules, location, action):
    write(f"version: 1\nrules: {rules}\n")
    assert judge(subject(location)).action == action


def test_one_files_hash_condemns_a_model_and_does_not_clear_it():
    bad = "cd" * 32
    write(f"rules: [{{action: deny, sha256: '{bad}'}}]")
    assert judge(subject(files={"model.safetensors": bad})).action == "deny"
    write(f"rules: [{{action: allow, sha256: '{bad}'}}]")
    assert judge(subject(files={"model.safetensors": bad})).action == "ask"


def test_defaults_can_be_stricter():
    write("default: {catalogue: ask, folder: deny, other: deny}")
    assert judge(subject()).action == "deny"
    assert judge(subject("/x", "folder")).action == "deny"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("rules:\n  - {action: alow, org: x}\n", 2, "'alow' is none of allow, ask, deny"),
        ("rules:\n  - {action: allow, org: x}\n  - {action: deny, orgs: x}\n", 3, "'orgs' is not known"),
        ("rules:\n  - {action: allow}\n", 2, "names no org"),
        ("rules:\n  - org: x\n", 2, "no action"),
        ("rules:\n  - action: deny\n    sha256: 12\n", 3, "must be a text"),
        ("rules:\n  - action: deny\n    sha256: abc\n", 3, "64 hexadecimal"),
        ("rules: 5\n", 1, "must be a list"),
        ("- a\n", 1, "fields with values"),
        ("version: 2\n", 1, "version 2"),
        ("rules: []\nrules: []\n", 2, "twice"),
        ("rules: [\n", 2, "expected"),
        ("default: {other: maybe}\n", 1, "none of"),
        ("x: !!python/object/apply:os.system ['true']\n", 1, "constructor"),
        ("rules:\n  - just a text\n", 2, "fields with values"),
    ],
)
def test_a_wrong_policy_stops_everything_and_names_its_line(text, line, words):
    write(text)
    with pytest.raises(InputError, match=words) as caught:
        judge(subject())
    assert f"policy.yaml, line {line}:" in caught.value.what


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_a_clear_error(text):
    policy.policy_path().write_bytes(text.encode("utf-8", "replace"))
    with suppress(InputError):  # any other exception fails the test
        assert load().default["other"] in ("allow", "ask", "deny")


def test_an_override_holds_for_one_model_with_one_content():
    allow(subject(), "looked through by us")
    found = judge(subject())
    assert (found.action, found.because) == ("allow", "override")
    assert found.override is not None
    assert found.record()["override"]["reason"] == "looked through by us"
    assert judge(subject("owner/other")).action == "ask"
    assert judge(Subject(source="huggingface", location="owner/name", fingerprint="0" * 64)).action == "ask"
    write("rules: [{action: deny, org: owner}]")
    assert judge(subject()).action == "deny"  # the policy is above
    with pytest.raises(InputError, match="fingerprint"):
        allow(Subject(source="folder", location="/x"), "no hash")


def test_asking_without_anyone_to_ask_ends_with_the_command_that_allows():
    with pytest.raises(ModelError, match="nobody has said") as caught:
        enforce(judge(subject()))
    assert f"autoswift models --allow hf://owner/name --sha256 {HASH}" in caught.value.fix
    with pytest.raises(ModelError, match="nobody has said"):
        enforce(judge(subject()), lambda verdict: False)
    assert policy.overrides() == []
    assert enforce(judge(subject()), lambda verdict: True).because == "override"
    assert enforce(judge(subject())).action == "allow"  # asked once
    write("rules: [{action: deny, org: owner, reason: not vetted}]")
    with pytest.raises(ModelError, match="denies owner/name") as caught:
        enforce(judge(subject()), lambda verdict: True)
    assert "policy.yaml:1" in caught.value.why
    assert "not vetted" in caught.value.why


def test_a_fingerprint_is_of_names_and_hashes_without_the_licence():
    files = {"config.json": "1", "model.safetensors": "2"}
    assert fingerprint(files) == fingerprint(dict(reversed(files.items())) | {"LICENSE": "3", "NOTICE.txt": "4"})
    assert fingerprint(files) != fingerprint({"config.json": "2", "model.safetensors": "1"})
    assert fingerprint(files) == sha256(b"1  config.json\n2  model.safetensors\n")


@BOTH
def test_nothing_large_is_fetched_before_it_is_allowed(hub, tmp_path, source):
    files = published(tmp_path)
    hub.publish("stranger/tiny", files)
    policy.policy_path().unlink()
    from autoswift.catalog.fetch import stage
    from unit.trust import choice

    asked = []
    with pytest.raises(ModelError, match="nobody has said"):
        stage(choice(source, "stranger/tiny"), tmp_path / "run")
    assert not [one for one in hub.requests if "safetensors" in one.path and "index" not in one.path]
    staged = stage(choice(source, "stranger/tiny"), tmp_path / "run", confirm=lambda v: asked.append(v) or True)
    assert [v.subject.location for v in asked] == ["stranger/tiny"]
    assert staged.verdict.because == "override"
    assert any(staged.verdict.subject.fingerprint in note for note in staged.notes)
    assert staged.verdict.subject.fingerprint == fingerprint({name: sha256(raw) for name, raw in files.items()})
    stage(choice(source, "stranger/tiny"), tmp_path / "again")  # the answer holds


def test_a_denied_folder_leaves_nothing(hub, tmp_path):
    from autoswift.catalog.fetch import stage
    from unit.catalog_folders import model
    from unit.trust import choice

    write("default: {folder: deny}")
    folder = model(tmp_path / "mine")
    with pytest.raises(ModelError, match="denies"):
        stage(choice("folder", str(folder)), tmp_path / "runs" / "base")
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_override_ends_with_the_content_that_it_was_for(hub, tmp_path):
    from autoswift.catalog import remote

    files = published(tmp_path)
    hub.publish(ID, files)
    policy.policy_path().unlink()
    bring("huggingface", tmp_path / "one", confirm=lambda verdict: True)
    hub.publish(ID, files | {"model-1.safetensors": changed(files["model-1.safetensors"])})
    remote.update_lock(ID)
    with pytest.raises(ModelError, match="nobody has said"):
        bring("huggingface", tmp_path / "two")
