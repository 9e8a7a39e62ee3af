"""`swift deploy` with the transformers backend: serves a merged model folder where llama.cpp cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.errors import InputError
from autoswift.run.places import child_environment, train_python
from autoswift.serve.engines import loopback_only
from autoswift.tables import explain

CHILD = Path(__file__).parent / "children" / "swift_deploy.py"


class SwiftDeploy:
    """Any architecture that transformers knows; slower than llama.cpp on CPU."""

    def command(self, artifact: Artifact, settings: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Command and environment of the server.

        Args:
            artifact: a folder with config.json and weights, by absolute path.
            settings: host, port, model_name, context (tokens of one prompt), parallel, threads, python; model_type
                and template where the folder does not tell them; precision (default float32, as a CPU computes).

        Raises:
            InputError: when the artefact is no model folder or the host is not this machine.
        """
        path = Path(artifact.path)
        if not (path / "config.json").is_file():
            raise InputError(*explain("serve.not_folder", path=path))
        threads = max(1, int(settings.get("threads") or 1))
        options: dict[str, Any] = {
            "--model": path,
            "--infer_backend": "transformers",
            "--torch_dtype": settings.get("precision") or "float32",
            "--host": loopback_only(str(settings.get("host") or "127.0.0.1")),
            "--port": settings["port"],
            "--served_model_name": settings["model_name"],
            "--max_length": settings["context"],
            "--max_batch_size": settings["parallel"],
            "--verbose": "false",  # by default it writes every prompt and answer into the log
            "--log_interval": -1,
            "--log_level": "warning",
            "--load_args": "false",  # an args.json in the folder could name another template or plug-ins
        }
        options |= {f"--{name}": settings[name] for name in ("model_type", "template") if settings.get(name)}
        argv = [str(settings.get("python") or train_python()), "-P", str(CHILD)]
        return [*argv, *(str(part) for pair in options.items() for part in pair)], child_environment(threads)

    def health(self, url: str) -> bool:
        """Whether the server at that address answers."""
        from autoswift.serve.client import answers

        return answers(url, "/health")

    def limits(self) -> Mapping[str, Any]:
        """What it can hold.

        `start_seconds`: importing PyTorch and ms-swift takes tens of seconds on a busy CPU, loading 7B as long again.
        """
        return {
            "formats": ("merged", "base", "checkpoint"),
            "streams": True,
            "lora_rank": 0,
            "tokenizes": False,
            "start_seconds": 420.0,
        }
