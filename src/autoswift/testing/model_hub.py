"""A model hub on this machine that speaks both hubs' protocols, and misbehaves when told to.

```python
with ModelHub() as hub:
    hub.publish("owner/name", folder)
    hub.fault("changed", "model.safetensors")
    env = hub.environment()  # HF_ENDPOINT and MODELSCOPE_ENDPOINT
```

As a program: `python -m autoswift.testing.model_hub owner/name=FOLDER [--fault changed=model.safetensors]`.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, get_args

from autoswift.testing.model_hub_answers import Asked, Hub, Network, changed

Kind = Literal[
    "changed", "truncated", "stalled", "slow", "short_length", "long_length", "endless", "redirect", "loop", "status",
    "unhashed", "lying", "moving", "no_range", "wrong_range",
]  # fmt: skip


@dataclass(slots=True)
class Fault:
    """One misbehaviour.

    Attributes:
        kind: changed: one byte (at `value`, default the last) is another. truncated: the connection ends after `value`
            bytes of what was promised. stalled: nothing more comes after `value` bytes. slow: `value` seconds between
            blocks of 64 bytes. short_length, long_length: Content-Length is `value` bytes too small or too large.
            endless: more bytes than announced. redirect: to `target`. loop: to itself. status: answers `value`.
            unhashed: the list has no hashes. lying: the list has wrong ones. moving: `files` change after the list
            was given. no_range: always from the first byte. wrong_range: parts begin `value` bytes too late.
        files: which, as a glob; the list itself is called "list".
        times: how often; None is always.
        source: huggingface, modelscope, or empty for both.
    """

    kind: Kind
    files: str = "*"
    times: int | None = None
    value: float = 1
    target: str = ""

    def applies(self, kind: str, name: str) -> bool:
        """Whether it strikes now; counts."""
        if self.kind != kind or not fnmatch.fnmatchcase(name, self.files) or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(slots=True)
class _Model:
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    newest: str = ""


class ModelHub:
    """The hub and its content network, each on a port of its own.

    Attributes:
        requests: all that came, in order.
        token: when set, the hub's own answers need it; the content network must never be sent it.
    """

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.token = ""
        self.stopping = threading.Event()
        self._faults: list[Fault] = []
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()
        self._servers: list[ThreadingHTTPServer] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> ModelHub:
        for handler in (Hub, Network):
            made = type(handler.__name__, (handler,), {"hub": self})
            server = ThreadingHTTPServer(("127.0.0.1", 0), made)
            server.daemon_threads = True
            self._servers.append(server)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.block_on_close = False
            server.server_close()

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def network(self) -> str:
        """The content network's address."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def environment(self) -> dict[str, str]:
        """What a program needs to use this hub as both."""
        return {"HF_ENDPOINT": self.endpoint, "MODELSCOPE_ENDPOINT": self.endpoint}

    def publish(self, model_id: str, files: Path | Mapping[str, bytes]) -> str:
        """A new revision of a model; older ones stay.

        Returns:
            The revision.
        """
        if isinstance(files, Path):
            folder = files
            files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        content = dict(files)
        tree = "".join(f"{name} {hashlib.sha256(raw).hexdigest()}\n" for name, raw in sorted(content.items()))
        revision = hashlib.sha1(tree.encode(), usedforsecurity=False).hexdigest()
        with self._lock:
            model = self._models.setdefault(model_id, _Model())
            model.revisions[revision] = content
            model.newest = revision
        return revision

    def withdraw(self, model_id: str, revision: str) -> None:
        """Takes a revision away, as a force-push does."""
        with self._lock:
            del self._models[model_id].revisions[revision]

    def fault(self, kind: Kind, files: str = "*", **values: Any) -> None:
        """Misbehaves from now on; see `Fault`."""
        self._faults.append(Fault(kind, files, **values))

    def heal(self) -> None:
        """Behaves from now on."""
        self._faults.clear()

    def strikes(self, kind: Kind, name: str) -> Fault | None:
        """The fault of that kind for that file, if one applies now."""
        with self._lock:
            return next((one for one in self._faults if one.applies(kind, name)), None)

    def files_of(self, model_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The revision by its name (main and master are the newest), and its files."""
        with self._lock:
            model = self._models.get(model_id)
            if model is None:
                return None
            name = model.newest if revision in ("main", "master", "") else revision
            content = model.revisions.get(name)
            return None if content is None else (name, content)

    def move(self, model_id: str, pattern: str) -> None:
        """Publishes a revision in which files that fit have another last byte."""
        found = self.files_of(model_id, "main")
        if found is not None:
            new = {n: changed(raw) if fnmatch.fnmatchcase(n, pattern) else raw for n, raw in found[1].items()}
            self.publish(model_id, new)
            self.withdraw(model_id, found[0])


def canary_module(canary: Path) -> bytes:
    """Python that leaves a file behind when it is run."""
    return f"open({str(canary)!r}, 'a').write('ran')\nclass X: pass\n".encode()


def canary_pickle(canary: Path) -> bytes:
    """A pickle (written by hand) that leaves a file behind when it is loaded."""
    return f"cbuiltins\nexec\n(Vopen({str(canary)!r}, 'a').write('ran')\ntR.".encode()


def main() -> None:
    """Serves folders until it is interrupted."""
    parser = argparse.ArgumentParser(description="A model hub on this machine, for tests.")
    parser.add_argument("models", nargs="+", metavar="OWNER/NAME=FOLDER")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=FILES", help=" ".join(get_args(Kind)))
    given = parser.parse_args()
    with ModelHub() as hub:
        for one in given.models:
            model_id, _, folder = one.partition("=")
            hub.publish(model_id, Path(folder))
        for one in given.fault:
            kind, _, files = one.partition("=")
            hub.fault(kind, files or "*")
        for name, value in hub.environment().items():
            print(f"export {name}={value}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
