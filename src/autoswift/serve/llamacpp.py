"""llama.cpp: serves a GGUF file on CPU, OpenAI-compatible."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.errors import InputError
from autoswift.run.places import child_environment, train_python
from autoswift.serve.engines import loopback_only
from autoswift.tables import explain

CHILD = Path(__file__).parent / "children" / "llamacpp.py"


class LlamaCpp:
    """The embedded default: a prebuilt wheel, ready in a second, several requests at once."""

    def command(self, artifact: Artifact, settings: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Command and environment of the server.

        Args:
            artifact: a GGUF file, by absolute path.
            settings: host, port, model_name, context (tokens of one request), parallel, threads, python.

        Raises:
            InputError: when the artefact is no GGUF file or the host is not this machine.
        """
        path = Path(artifact.path)
        if not _is_gguf(path):
            raise InputError(*explain("serve.not_gguf", path=path))
        threads = max(1, int(settings.get("threads") or 1))
        argv = [str(settings.get("python") or train_python()), "-P", str(CHILD)]
        options = {
            "--model": path,
            "--alias": settings["model_name"],
            "--host": loopback_only(str(settings.get("host") or "127.0.0.1")),
            "--port": settings["port"],
            "--context": settings["context"],
            "--parallel": settings["parallel"],
            "--threads": threads,
        }
        return [*argv, *(str(part) for pair in options.items() for part in pair)], child_environment(threads)

    def health(self, url: str) -> bool:
        """Whether the server at that address answers and has its model loaded."""
        from autoswift.serve.client import answers

        return answers(url, "/health")

    def limits(self) -> Mapping[str, Any]:
        """What it can hold.

        `start_seconds` is generous: loading is reading the file, and a slow disk reads 10 GB in two minutes.
        """
        return {
            "formats": ("gguf",),
            "streams": True,
            "lora_rank": 0,
            "tokenizes": True,
            "start_seconds": 180.0,
        }


def _is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF file does."""
    if not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(4) == b"GGUF"
