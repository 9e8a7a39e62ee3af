"""Hubs that change, cut, stall, redirect and lie: not one changed byte gets into a run; every refusal is explained."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from autoswift.catalog import cached, lockfile, net, remote, store, transfers
from autoswift.catalog.lockfile import lock_path, locked, locked_files
from autoswift.catalog.net import may_follow
from autoswift.errors import AutoSwiftError, DiskFull, HubUnreachable, ModelError
from autoswift.testing.model_hub import ModelHub, changed
from unit.trust import BOTH, ID, bring, choice, content, hub, poisoned, published, sha256

__all__ = ["hub"]
WEIGHTS = "model-1.safetensors"


def refused(error: type[AutoSwiftError], words: str | None, act, *args, **options) -> AutoSwiftError:
    with pytest.raises(error, match=words) as caught:
        act(*args, **options)
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def cache(source: str) -> Path:
    return store.folder_of(source, ID)


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    return published(tmp_path)


@BOTH
def test_a_model_arrives_whole_and_is_pinned(hub, files, tmp_path, source):
    revision = hub.publish(ID, files)
    told = []
    staged = bring(source, tmp_path / "run", progress=lambda *a: told.append(a))
    assert content(staged.path) == files
    assert staged.hashes == staged.originals == {name: sha256(raw) for name, raw in files.items()}
    assert locked(source, ID) == lockfile.Locked(revision=revision, files=staged.hashes)
    assert staged.record()["trust"]["because"] == "rule"
    downloads = [(done, total) for words, done, total in told if words.startswith("downloading")]
    assert downloads[-1][0] == downloads[-1][1] == sum(map(len, files.values()))
    assert any("MB/s" in words for words, _, _ in told)
    assert [one for one in cache(source).iterdir() if ".part" in one.name] == []


@BOTH
@pytest.mark.parametrize("kind", ["changed", "truncated", "endless", "short_length"])
def test_no_file_is_taken_in_another_form(hub, files, tmp_path, source, kind):
    hub.publish(ID, files)
    for name in files:
        hub.heal()
        _empty(cache(source))
        hub.fault(kind, name, **({} if kind in ("changed", "endless") else {"value": 1}))
        error = HubUnreachable if kind == "truncated" and len(files[name]) > 4 else AutoSwiftError
        caught = refused(error, None, bring, source, tmp_path / "run")
        assert name in caught.what + caught.why or "127.0.0.1" in caught.what
        assert not (tmp_path / "run").exists()
        assert locked_files(source, ID) == {}
    hub.heal()
    assert content(bring(source, tmp_path / "run").path) == files  # and nothing wrong stayed in the cache


@given(st.data())
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
def test_any_changed_byte_of_any_file_is_refused(hub, tmp_path_factory, data):
    """At the first fetch by the hub's list, at each later one by models.lock, whoever changed it."""
    folder = tmp_path_factory.mktemp("byte")
    files = published(folder)
    source = data.draw(st.sampled_from(["huggingface", "modelscope"]))
    name = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    hub.heal()
    lockfile.lock_path().unlink(missing_ok=True)
    _empty(cache(source))
    hub.publish(ID, files)
    hub.fault("changed", name, value=at if at != 1 else -1)
    refused(ModelError, "arrived damaged", bring, source, folder / "on the way")
    hub.heal()
    bring(source, folder / "good")
    path = cache(source) / name
    before = path.stat()
    path.write_bytes(changed(path.read_bytes(), at))
    _same_times(path, before)  # as a bit that flips on the disk
    refused(ModelError, "another|models.lock|not the file", _offline, bring, source, folder / "in the cache")
    assert content(bring(source, folder / "again").path) == files  # the damaged copy came anew
    if name == "LICENSE":
        return
    hub.publish(ID, files | {name: changed(files[name], at)})
    hub.withdraw(ID, locked("huggingface", ID).revision or locked("modelscope", ID).revision)
    path.unlink()
    refused(ModelError, "no longer has|not what models.lock pins", bring, source, folder / "at the hub")


def _offline(act, *args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSWIFT_OFFLINE", "1")
        try:
            return act(*args)
        except HubUnreachable as exc:  # detected, taken out of the cache, and nobody may be asked for another
            assert [p.name for p in cache(args[0]).iterdir() if p.name in published_names()] != []
            raise ModelError("the file was not the file that was used", exc.why, exc.fix) from exc


def published_names() -> set[str]:
    return {"config.json", "tokenizer.json", "merges.txt", WEIGHTS}


def _same_times(path: Path, before) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _empty(folder: Path) -> None:
    for path in folder.glob("*") if folder.is_dir() else ():
        path.unlink()
    (folder / cached.STATE).unlink(missing_ok=True)


@BOTH
def test_a_hub_that_lies_about_hashes_is_not_believed(hub, files, tmp_path, source):
    hub.publish(ID, files)
    hub.fault("lying", WEIGHTS)
    refused(ModelError, f"{WEIGHTS} arrived damaged", bring, source, tmp_path / "run")
    assert not (cache(source) / WEIGHTS).exists()
    hub.heal()
    bring(source, tmp_path / "run")
    _empty(cache(source))
    hub.fault("lying", WEIGHTS)  # now the lock decides, before a byte is fetched
    hub.requests.clear()
    error = refused(ModelError, "not what models.lock pins", bring, source, tmp_path / "again")
    assert f"autoswift models --update-lock {ID}" in error.fix
    assert not [one for one in hub.requests if one.path.endswith(WEIGHTS)]


@BOTH
def test_a_hub_that_announces_no_hashes_is_asked_about(hub, files, tmp_path, source):
    hub.publish(ID, files)
    hub.fault("unhashed", "config.json")
    error = refused(ModelError, "announces no hash for config.json", bring, source, tmp_path / "run")
    assert "--sha256" in error.fix
    verdicts = []
    staged = bring(source, tmp_path / "run", confirm=lambda verdict: verdicts.append(verdict) or True)
    assert [v.because for v in verdicts] == ["unproven"]
    assert any("no hash for config.json" in note for note in staged.notes)
    _empty(cache(source))
    hub.fault("changed", "config.json")  # pinned now, whatever the hub says or does not say
    refused(ModelError, r"config\.json arrived damaged", bring, source, tmp_path / "again")


def test_large_files_without_a_hash_are_refused_before_they_are_fetched(hub, files, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "EARLY", 10)
    hub.publish(ID, files)
    hub.fault("unhashed", "*.safetensors")
    monkeypatch.setattr(store.names, "is_safe", lambda name: name.endswith(("safetensors", "config.json")))
    refused(ModelError, "no SHA-256", bring, "huggingface", tmp_path / "run")


def test_a_revision_that_is_pinned_is_asked_for(hub, files, tmp_path):
    bring_ = lambda name: bring("huggingface", tmp_path / name)  # noqa: E731
    hub.publish(ID, files)
    bring_("one")
    hub.publish(ID, files | {"merges.txt": b"#version: 0.3\n"})
    _empty(cache("huggingface"))
    assert content(bring_("two").path) == files  # the hub still has the old one
    update = remote.update_lock(ID)
    assert update.changed == ("merges.txt",)
    assert update.before != update.after
    assert content(bring_("three").path)["merges.txt"] == b"#version: 0.3\n"


@BOTH
def test_a_pinned_revision_that_is_gone_is_said(hub, files, tmp_path, source):
    old = hub.publish(ID, files)
    bring(source, tmp_path / "one")
    hub.publish(ID, files | {WEIGHTS: changed(files[WEIGHTS])})
    hub.withdraw(ID, old)
    _empty(cache(source))
    error = refused(ModelError, "no longer has|not what models.lock pins", bring, source, tmp_path / "two")
    assert f"--update-lock {ID}" in error.fix
    assert old in error.what + error.why
    remote.update_lock(("hf://" if source == "huggingface" else "ms://") + ID)
    assert content(bring(source, tmp_path / "two").path)[WEIGHTS] == changed(files[WEIGHTS])


def test_a_revision_that_moves_between_list_and_download(hub, files, tmp_path):
    hub.publish(ID, files)
    hub.fault("moving", "list", times=1, target="*.safetensors")
    found = content(bring("modelscope", tmp_path / "run").path)  # listed anew, once
    assert found[WEIGHTS] == changed(files[WEIGHTS])
    assert locked_files("modelscope", ID)[WEIGHTS] == sha256(found[WEIGHTS])


@BOTH
@pytest.mark.parametrize("keep", [1, 100, 500])
def test_a_broken_download_is_continued(hub, files, tmp_path, source, keep):
    hub.publish(ID, files)
    hub.fault("truncated", WEIGHTS, times=2, value=keep)
    assert content(bring(source, tmp_path / "run").path) == files
    ranges = [one.range for one in hub.requests if WEIGHTS in one.path and one.host in hub.network]
    assert ranges == ["", f"bytes={keep}-", f"bytes={2 * keep}-"]


def test_what_came_stays_for_the_next_process(hub, files, tmp_path):
    hub.publish(ID, files)
    hub.fault("truncated", WEIGHTS, value=100)
    error = refused(HubUnreachable, "did not answer", bring, "huggingface", tmp_path / "run")
    assert error.transient
    hub.heal()
    hub.requests.clear()
    assert content(bring("huggingface", tmp_path / "run").path) == files
    assert [one.range for one in hub.requests if one.host in hub.network and WEIGHTS in one.path] == ["bytes=400-"]


@pytest.mark.parametrize("kind", ["no_range", "wrong_range"])
def test_a_wrong_continuation_begins_anew(hub, files, tmp_path, kind):
    hub.publish(ID, files)
    hub.fault("truncated", WEIGHTS, times=1, value=300)
    hub.fault(kind, WEIGHTS, value=5)
    assert content(bring("huggingface", tmp_path / "run").path) == files


def test_a_part_of_another_content_is_found_out_by_the_hash_and_begun_anew_once(hub, files, tmp_path):
    hub.publish(ID, files)
    hub.fault("truncated", WEIGHTS, value=100)
    refused(HubUnreachable, None, bring, "huggingface", tmp_path / "run")
    part = cache("huggingface") / f"{WEIGHTS}.part"
    part.write_bytes(changed(part.read_bytes()))
    hub.heal()
    hub.requests.clear()
    assert content(bring("huggingface", tmp_path / "run").path) == files
    asked = [one.range for one in hub.requests if one.host in hub.network and WEIGHTS in one.path]
    assert asked == ["bytes=400-", ""]


def test_a_part_of_another_revision_is_not_continued(hub, files, tmp_path):
    hub.publish(ID, files)
    hub.fault("truncated", WEIGHTS, value=100)
    refused(HubUnreachable, None, bring, "huggingface", tmp_path / "run")
    hub.heal()
    hub.publish(ID, files | {WEIGHTS: changed(files[WEIGHTS])})
    hub.requests.clear()
    bring("huggingface", tmp_path / "run")
    assert [one.range for one in hub.requests if one.host in hub.network and WEIGHTS in one.path] == [""]


def test_a_stalled_download_is_given_up_and_continued(hub, files, tmp_path, monkeypatch):
    monkeypatch.setattr(net, "STALL_SECONDS", 0.2)
    hub.publish(ID, files)
    hub.fault("stalled", WEIGHTS, times=1, value=50)
    begin = time.monotonic()
    assert content(bring("huggingface", tmp_path / "run").path) == files
    assert time.monotonic() - begin < 5


def test_single_bytes_now_and_then_are_a_stall_too(hub, files, tmp_path, monkeypatch):
    monkeypatch.setattr(net, "SLOW_SECONDS", 0.1)
    hub.publish(ID, files)
    hub.fault("slow", WEIGHTS, times=1, value=0.03)
    assert content(bring("huggingface", tmp_path / "run").path) == files
    assert len([one for one in hub.requests if one.host in hub.network and WEIGHTS in one.path]) == 2


@BOTH
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub, files, tmp_path, source, status):
    hub.publish(ID, files)
    hub.fault("status", "*", times=net.ATTEMPTS - 1, value=status)
    assert content(bring(source, tmp_path / "run").path) == files


@BOTH
@pytest.mark.parametrize(
    ("where", "status", "error", "words"),
    [
        ("list", 401, ModelError, "licence"),
        ("list", 403, ModelError, "licence"),
        ("list", 404, ModelError, "has no"),
        ("list", 503, HubUnreachable, "did not answer"),
        ("config.json", 403, ModelError, "licence"),
        ("config.json", 404, ModelError, "has no config.json"),
    ],
)
def test_a_hubs_refusal_is_explained(hub, files, tmp_path, source, where, status, error, words):
    hub.publish(ID, files)
    hub.fault("status", where, value=status)
    caught = refused(error, None, bring, source, tmp_path / "run")
    assert words in caught.what + caught.why
    asked = [
        one for one in hub.requests if one.path.startswith("/api") and ("config.json" in one.path) == (where != "list")
    ]
    assert len(asked) <= net.ATTEMPTS


@BOTH
@pytest.mark.parametrize(
    "target",
    [
        "http://example.invalid/x",
        "https://example.invalid/x",
        "file:///etc/passwd",
        "http://169.254.169.254/",
        "//x.invalid/",
    ],
)
def test_a_redirect_elsewhere_is_not_followed(hub, files, tmp_path, source, target):
    hub.publish(ID, files)
    hub.fault("redirect", "config.json", target=target)
    error = refused(ModelError, "not followed", bring, source, tmp_path / "run")
    assert "config.json" in error.what


def test_redirects_in_a_circle_end(hub, files, tmp_path):
    hub.publish(ID, files)
    hub.fault("loop", "config.json")
    refused(ModelError, "again and again", bring, "huggingface", tmp_path / "run")


@pytest.mark.parametrize(
    ("origin", "target", "follows"),
    [
        ("https://huggingface.co/a", "https://cdn-lfs.hf.co/b", True),
        ("https://huggingface.co/a", "http://cdn-lfs.hf.co/b", False),
        ("https://huggingface.co/a", "https://127.0.0.1/b", False),
        ("https://huggingface.co/a", "https://[::1]/b", False),
        ("https://huggingface.co/a", "https://10.0.0.1/b", False),
        ("https://huggingface.co/a", "https://user@evil.example/b", False),
        ("https://huggingface.co/a", "ftp://huggingface.co/b", False),
        ("http://mirror.example:8080/a", "http://mirror.example:8080/b", True),
        ("http://mirror.example:8080/a", "http://mirror.example:9090/b", False),
        ("http://127.0.0.1:1/a", "http://localhost:2/b", True),
        ("http://127.0.0.1:1/a", "https://example.com/b", False),
        ("https://huggingface.co/a", "https://exa mple:x/b", False),
    ],
)
def test_where_a_redirect_may_lead(origin, target, follows):
    assert may_follow(origin, target) is follows


@pytest.mark.parametrize(("source", "name"), [("huggingface", "HF_TOKEN"), ("modelscope", "MODELSCOPE_API_TOKEN")])
def test_the_token_goes_to_its_hub_only(hub, files, tmp_path, monkeypatch, source, name):
    hub.publish(ID, files)
    monkeypatch.setenv(name, "secret")
    other = "MODELSCOPE_ENDPOINT" if source == "huggingface" else "HF_ENDPOINT"
    monkeypatch.setenv(other, "http://127.0.0.1:9")
    hub.token = "secret"
    bring(source, tmp_path / "run")
    own = {one.authorization for one in hub.requests if one.host in hub.endpoint}
    elsewhere = {one.authorization for one in hub.requests if one.host in hub.network}
    assert own == {"Bearer secret"}
    assert elsewhere == {""}


def test_a_token_never_crosses_an_open_line(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    assert "Authorization" not in net.headers("http://mirror.example/api")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert "Authorization" in net.headers("https://mirror.example/api")
    assert "Authorization" not in net.headers("https://mirror.example.evil.net/api")
    monkeypatch.setenv("HF_TOKEN", "secret\nX-Other: 1")
    assert "Authorization" not in net.headers("https://mirror.example/api")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../config.json", "leads out"),
        ("/etc/model.safetensors", "leads out"),
        ("a/../../x.json", "leads out"),
        ("C:/x.json", "leads out"),
        ("a\\..\\x.json", "leads out"),
        ("x\0.json", "control"),
        ("x\u202enosj.py", "control"),
        ("n" * 200 + ".json", "too long"),
        ("Config.json", "both"),
        ("tokenizer.JSON", "both"),
    ],
)
def test_a_list_with_a_harmful_name_is_refused_whole(hub, files, tmp_path, name, words):
    hub.publish(ID, files | {name: b"{}"})
    refused(ModelError, words, bring, "huggingface", tmp_path / "run")
    assert not [one for one in hub.requests if "/resolve/" in one.path]
    assert not cache("huggingface").exists()


def test_room_is_looked_for_before_a_byte_is_fetched(hub, files, tmp_path, monkeypatch):
    hub.publish(ID, files)
    monkeypatch.setattr(cached, "MARGIN", 2**60)
    refused(DiskFull, "the model needs", bring, "huggingface", tmp_path / "run")
    assert not [one for one in hub.requests if "/resolve/" in one.path]


def test_files_come_several_at_once(hub, files, tmp_path, monkeypatch):
    hub.publish(ID, files)
    hub.fault("slow", "*", value=0.002)
    active, most, lock = 0, 0, threading.Lock()
    original = transfers.hub.download

    def watched(*args):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        try:
            return original(*args)
        finally:
            with lock:
                active -= 1

    monkeypatch.setattr(transfers.hub, "download", watched)
    bring("huggingface", tmp_path / "run")
    assert 2 <= most <= transfers.AT_ONCE


def test_one_bad_file_stops_the_others(hub, files, tmp_path, monkeypatch):
    hub.publish(ID, files)
    hub.fault("stalled", "tokenizer.json", value=10)
    hub.fault("changed", "config.json")
    begin = time.monotonic()
    refused(ModelError, "config.json arrived damaged", bring, "huggingface", tmp_path / "run")
    assert time.monotonic() - begin < 10


def test_an_interrupt_does_not_wait_for_a_hub_that_says_nothing(hub, files, tmp_path):
    hub.publish(ID, files)
    hub.fault("stalled", WEIGHTS, value=10)
    threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT)).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        bring("huggingface", tmp_path / "run")
    assert time.monotonic() - begin < 5
    assert not (tmp_path / "run").exists()


def test_the_cache_is_checked_offline(hub, files, tmp_path):
    hub.publish(ID, files)
    bring("huggingface", tmp_path / "run")
    assert {one.state for one in remote.verify("huggingface", ID, full=True)} == {"ok"}
    assert remote.is_cached("huggingface", ID)
    assert not remote.is_cached("modelscope", ID)
    path = cache("huggingface") / WEIGHTS
    before = path.stat()
    path.write_bytes(changed(path.read_bytes()))
    _same_times(path, before)
    assert {one.state for one in remote.verify("huggingface", ID)} == {"ok"}  # size and time say nothing of it
    assert [one.name for one in remote.verify("huggingface", ID, full=True) if one.state == "changed"] == [WEIGHTS]
    path.unlink()
    assert [one.name for one in remote.verify("huggingface", ID) if one.state == "absent"] == [WEIGHTS]


@BOTH
def test_no_code_runs_and_none_is_staged(hub, tmp_path, source):
    canary = tmp_path / "canary"
    hub.publish(ID, poisoned(tmp_path, canary))
    staged = bring(source, tmp_path / "run")
    assert {p.name for p in staged.path.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    }
    assert not [one for one in hub.requests if one.path.endswith((".py", ".bin", ".pkl", ".mdl"))]
    assert "auto_map" not in "".join(p.read_text() for p in staged.path.glob("*config.json"))
    assert any("auto_map" in note for note in staged.notes)
    assert staged.originals["config.json"] != staged.hashes["config.json"]
    assert not canary.exists()


def test_a_folder_with_code_is_staged_without(tmp_path):
    canary, folder = tmp_path / "canary", tmp_path / "mine"
    for name, raw in poisoned(tmp_path, canary).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    (folder / "tokenizer.model").unlink()
    from autoswift.catalog.fetch import stage

    staged = stage(choice("folder", str(folder)), tmp_path / "run", language="zh")
    assert not [p for p in staged.path.iterdir() if p.suffix in (".py", ".bin", ".pkl", ".mdl")]
    assert any("modeling_x.py" in note for note in staged.notes)
    assert any("pytorch_model.bin" in note for note in staged.notes)
    # The most trusting loader there is finds nothing to run in what was staged.
    program = "import json,sys,pathlib,pickle,importlib\nsys.path.insert(0, sys.argv[1])\n"
    program += "d=json.load(open(sys.argv[1]+'/config.json'))\n"
    program += "[importlib.import_module(v.split('.')[0]) for v in d.get('auto_map',{}).values()]\n"
    program += "[pickle.load(open(p,'rb')) for p in pathlib.Path(sys.argv[1]).glob('*.bin')]\n"
    for place, runs in ((folder, True), (staged.path, False)):
        subprocess.run([sys.executable, "-c", program, str(place)], check=True, timeout=30, env={}, capture_output=True)
        assert canary.exists() is runs
        canary.unlink(missing_ok=True)


@BOTH
def test_a_model_that_needs_its_code_is_refused_and_named(hub, tmp_path, source):
    canary = tmp_path / "canary"
    hub.publish(ID, poisoned(tmp_path, canary, architecture="EvilForCausalLM"))
    error = refused(ModelError, "its own Python code", bring, source, tmp_path / "run")
    assert ID in error.what
    assert "EvilForCausalLM" in error.what
    assert "safe alternative" in error.fix
    assert not (tmp_path / "run").exists()
    assert not canary.exists()


@BOTH
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "last.ckpt", "x.pkl", "x.mdl"])
def test_pickled_weights_are_refused_before_they_are_fetched(hub, files, tmp_path, source, name):
    kept = {n: raw for n, raw in files.items() if "safetensors" not in n}
    hub.publish("owner/huatuo-med-7b", kept | {name: b"\x80\x04"})
    from autoswift.catalog.fetch import stage

    choice_ = choice(source, "owner/huatuo-med-7b")
    error = refused(ModelError, name, stage, choice_, tmp_path / "run")
    assert "safe alternative" in error.fix
    assert not [one for one in hub.requests if "/resolve/" in one.path]


def test_facts_of_a_model_in_no_catalogue(hub, files, tmp_path):
    hub.publish(ID, files)
    found = remote.candidate(ID)
    assert (found.facts.id, found.facts.hf, found.facts.path) == (ID, ID, "")
    assert (found.facts.parameters, found.facts.layers, found.facts.model_type) == (264, 1, "llama")
    assert found.verdict.action == "allow"
    assert found.bytes_to_fetch == sum(len(raw) for name, raw in files.items() if name.endswith(".safetensors"))
    parts = [one.range for one in hub.requests if one.path.endswith(".safetensors") and one.host in hub.network]
    assert parts == [f"bytes=0-{len(files[n]) - 1}" for n in ("model-1.safetensors", "model-2.safetensors")]
    staged = bring("huggingface", tmp_path / "run")
    assert staged.parameters == found.facts.parameters
    assert staged.verdict.subject.fingerprint == found.verdict.subject.fingerprint
    hub.requests.clear()
    assert remote.hub_facts(ID) == found.facts
    assert hub.requests == []


def test_the_hub_that_has_a_model_is_found(hub, files, monkeypatch):
    hub.publish(ID, files)
    with ModelHub() as other:
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint)
        assert remote.resolve(ID) == ("modelscope", ID)
        other.publish(ID, files)
        assert remote.resolve(ID) == ("huggingface", ID)
        assert remote.resolve(f"ms://{ID}") == ("modelscope", ID)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    refused(HubUnreachable, "No hub answers", remote.resolve, ID)
    for bad in ("../x", "a/b/c", "hf://a", "owner/..", "owner/na me", "-a/b"):
        refused(ModelError, "no model of a hub", remote.resolve, bad)


def test_a_damaged_lock_stops(hub, files, tmp_path):
    hub.publish(ID, files)
    lock_path().write_text(json.dumps({f"huggingface:{ID}": {"files": ["x"]}}))
    with pytest.raises(ModelError, match=r"models\.lock"):
        bring("huggingface", tmp_path / "run")


HUGGINGFACE = f"""
import sys
from huggingface_hub import HfApi, snapshot_download
snapshot_download({ID!r}, local_dir=sys.argv[1])
rows = HfApi().repo_info({ID!r}, files_metadata=True).siblings
print({{row.rfilename: row.lfs.sha256 if row.lfs else row.blob_id for row in rows}})
"""
MODELSCOPE = f"""
import sys
from modelscope_hub import HubApi
HubApi().download_repo({ID!r}, "model", local_dir=sys.argv[1])
"""


@pytest.mark.parametrize(
    ("package", "program"), [("huggingface_hub", HUGGINGFACE), ("modelscope_hub", MODELSCOPE)], ids=["hf", "ms"]
)
def test_the_hubs_own_clients_take_the_fake_hub_for_real(hub, files, tmp_path, package, program):
    """Else the tests above would prove nothing about the real ones."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    hub.publish(ID, files)
    env = hub.environment() | {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    argv = [sys.executable, "-c", program, str(tmp_path / "theirs")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "theirs") == files
    for name, raw in files.items() if package == "huggingface_hub" else ():
        git = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
        assert (sha256(raw) if name.endswith(".safetensors") else git) in done.stdout
