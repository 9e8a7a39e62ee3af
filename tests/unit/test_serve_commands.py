"""What the built-in engines ask their servers to do, and the ports they get."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.artifact import Artifact
from autoswift.errors import InputError
from autoswift.serve import ports
from autoswift.serve.client import root
from autoswift.serve.engines import engine_named, loopback_only
from autoswift.serve.state import fingerprint

SETTINGS: dict[str, Any] = {
    "host": "localhost", "port": 8123, "model_name": "poet", "context": 512, "parallel": 3, "threads": 2,
    "python": "/env/bin/python",
}  # fmt: skip


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_llamacpp_gets_file_alias_slots_and_loopback(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF....")
    argv, env = engine_named("llamacpp").command(Artifact(path=str(model), kind="gguf"), SETTINGS)
    assert argv[:2] == ["/env/bin/python", "-P"]
    assert Path(argv[2]).name == "llamacpp.py"
    asked = {name: option(argv, f"--{name}") for name in ("model", "alias", "host", "port", "context", "parallel")}
    assert asked == {
        "model": str(model), "alias": "poet", "host": "127.0.0.1", "port": "8123", "context": "512", "parallel": "3",
    }  # fmt: skip
    assert (option(argv, "--threads"), env["OMP_NUM_THREADS"]) == ("2", "2")


def test_swift_writes_no_prompt_and_asks_no_hub(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    argv, env = engine_named("transformers").command(
        Artifact(path=str(tmp_path), kind="merged"), SETTINGS | {"model_type": "llama", "template": "chatml"}
    )
    assert option(argv, "--verbose") == "false"
    assert (option(argv, "--model_type"), option(argv, "--template")) == ("llama", "chatml")
    assert (option(argv, "--torch_dtype"), option(argv, "--host")) == ("float32", "127.0.0.1")
    assert env["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_what_an_engine_cannot_serve_is_refused(engine: str, tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("not a model")
    for path in (tmp_path, tmp_path / "notes.gguf", tmp_path / "absent"):
        with pytest.raises(InputError) as refused:
            engine_named(engine).command(Artifact(path=str(path), kind="gguf"), SETTINGS)
        assert refused.value.fix


@given(st.ip_addresses().map(str))
def test_only_loopback_addresses_pass(host: str) -> None:
    from ipaddress import ip_address

    if ip_address(host).is_loopback:
        assert loopback_only(host) == host
    else:
        with pytest.raises(InputError):
            loopback_only(host)


def test_a_free_port_near_the_asked_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert not ports.is_free("127.0.0.1", taken)
        found = ports.choose("127.0.0.1", taken)
        assert found != taken
        assert ports.is_free("127.0.0.1", found)
        assert ports.choose("127.0.0.1", found, {found}) != found
    assert ports.is_free("127.0.0.1", taken)


def test_the_root_of_an_address() -> None:
    assert {root(one) for one in ("http://h:1/v1", "http://h:1/v1/", "http://h:1", "http://h:1/")} == {"http://h:1"}


def test_the_fingerprint_follows_files_and_settings_but_not_the_port(tmp_path: Path) -> None:
    file = tmp_path / "model" / "weights"
    file.parent.mkdir()
    file.write_text("a")
    artifact = Artifact(path="model", kind="merged")

    def now(**changes: Any) -> str:
        return fingerprint(file.parent, artifact, "transformers", SETTINGS | changes)

    first = now()
    assert now(port=9, language="zh") == first
    assert now(context=4096) != first
    file.write_text("ab")
    assert now() != first
