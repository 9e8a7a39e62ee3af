"""A serve engine without a model: a small HTTP server that repeats what it is told.

For tests of the supervisor and of plug-ins: name it `autoswift.testing.echo_server:EchoEngine`. A file `misbehave` in
the artefact's folder changes it: `die` ends each new server at once, `silent` makes health checks fail.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoswift.domain.artifact import Artifact


class EchoEngine:
    """Serves any file; ready at once; answers a chat with the last message's words, one token a word."""

    def command(self, artifact: Artifact, settings: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Command and environment of the server.

        Raises:
            InputError: when the host is not this machine.
        """
        from autoswift.run.places import child_environment
        from autoswift.serve.engines import loopback_only

        host = loopback_only(str(settings.get("host") or "127.0.0.1"))
        argv = [sys.executable, "-P", __file__, host, str(settings["port"]), artifact.path, settings["model_name"]]
        return argv, child_environment(1)

    def health(self, url: str) -> bool:
        """Whether the server at that address answers."""
        from autoswift.serve.client import answers

        return answers(url, "/health")

    def limits(self) -> Mapping[str, Any]:
        """What it can hold: anything."""
        return {"formats": ("file",), "streams": False, "lora_rank": 0, "tokenizes": False, "start_seconds": 20.0}


class Handler(BaseHTTPRequestHandler):
    """The few OpenAI endpoints that the tests use."""

    model = "echo"
    misbehave = Path("misbehave")

    def do_GET(self) -> None:
        """/health and /v1/models."""
        if self.misbehave.exists() and self.misbehave.read_text() == "silent":
            self._answer(503, {"error": {"message": "silent"}})
            return
        self._answer(200, {"status": "ok", "data": [{"id": self.model}]})

    def do_POST(self) -> None:
        """/v1/chat/completions."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            self._answer(400, {"error": {"message": "messages must be a list"}})
            return
        words = str(messages[-1]["content"]).split()
        if len(words) > 100:
            self._answer(400, {"error": {"message": "exceeds the available context size"}})
            return
        said = words[: int(body.get("max_tokens") or 100)]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": " ".join(said)},
            "finish_reason": "stop" if len(said) == len(words) else "length",
        }
        usage = {"prompt_tokens": len(words), "completion_tokens": len(said), "total_tokens": len(words) + len(said)}
        kind = "chat.completion"
        self._answer(
            200,
            {"id": "0", "object": kind, "created": 0, "model": self.model, "choices": [choice], "usage": usage},
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: prompts belong to the user."""

    def _answer(self, code: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(arguments: list[str]) -> int:
    """Serves HOST PORT ARTIFACT NAME until it is ended."""
    host, port, path, Handler.model = arguments[0], int(arguments[1]), Path(arguments[2]), arguments[3]
    Handler.misbehave = path.parent / "misbehave"
    how = Handler.misbehave.read_text() if Handler.misbehave.exists() else ""
    if how == "die":
        print("the echo server was told to die")
        return 7
    ThreadingHTTPServer((host, port), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
