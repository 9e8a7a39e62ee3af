"""Talking to a served model over HTTP, with errors that say what to do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from autoswift.domain.artifact import Deployment
from autoswift.errors import ChildFailed, InputError, StageFailed
from autoswift.tables import explain

HEALTH_SECONDS = 5.0
"""A server that computes on all cores answers /health late, but within this."""
ANSWER_SECONDS = 600.0
"""A long answer of a large model on a busy CPU: about 1 token/s for 512 tokens."""

Message = Mapping[str, Any]


def root(address: str) -> str:
    """The address without its /v1."""
    return address.rstrip("/").removesuffix("/v1")


def answers(address: str, path: str) -> bool:
    """Whether a GET of the path gives 200.

    By http.client: the supervisor lives for months and asks nothing else of HTTP; httpx would be most of its memory.
    """
    parts = urlsplit(root(address))
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=HEALTH_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def request(address: str, path: str, body: Any = None, timeout: float = ANSWER_SECONDS) -> Any:
    """POSTs a JSON body (GET without one) and gives the JSON answer.

    Args:
        address: of the server, with or without /v1.
        path: below the server's root, for instance "/v1/chat/completions".
        body: any JSON value.
        timeout: seconds for connecting, and between two pieces of the answer.

    Raises:
        StageFailed: when nothing answers there, or the server fails.
        ChildFailed: transient, when the answer did not come in time.
        InputError: when the server refuses the request, with its words.
    """
    import httpx

    url = root(address) + path
    try:
        method = "GET" if body is None else "POST"
        # trust_env: a proxy from the environment must not stand between two processes of one machine
        answer = httpx.request(method, url, json=body, timeout=timeout, trust_env=False)
    except httpx.TimeoutException as exc:
        raise ChildFailed(*explain("client.slow", url=url, seconds=timeout), transient=True) from exc
    except httpx.HTTPError as exc:
        raise StageFailed(*explain("client.nothing", url=url, evidence=f"{type(exc).__name__}: {exc}")) from exc
    if answer.is_success:
        return answer.json()
    said = _said(answer.text)
    if answer.status_code < 500:
        raise InputError(*explain("client.refused", status=answer.status_code, evidence=said))
    raise StageFailed(*explain("client.failed", status=answer.status_code, evidence=said))


def _said(body: str) -> str:
    """The message in an error answer: {"error": {"message"}} as OpenAI has it, {"message"} as swift has it."""
    try:
        value = json.loads(body)
        inner = value.get("error", value)
        return str(inner.get("message", inner) if isinstance(inner, dict) else inner)[:500]
    except (ValueError, AttributeError):
        return body[:500]


def served_model(address: str) -> str:
    """The name of the first model that the server offers."""
    return str(request(address, "/v1/models", timeout=HEALTH_SECONDS)["data"][0]["id"])


def complete(address: str, messages: Sequence[Message], max_tokens: int, temperature: float, **extra: Any) -> Any:
    """The first choice of a chat completion: {"message", "finish_reason", …}."""
    body = {
        "model": extra.pop("model", None) or served_model(address),
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    return request(address, "/v1/chat/completions", body | extra)["choices"][0]


def chat(address: str, messages: Sequence[Message], max_tokens: int = 256, temperature: float = 0.0) -> str:
    """The model's answer.

    Args:
        address: of the deployment, ending in /v1.
        messages: [{"role", "content"}, …].
        max_tokens: longest answer.
        temperature: 0 is greedy.

    Raises:
        StageFailed: when nothing answers there, or the server fails.
        ChildFailed: transient, when the answer did not come in time.
        InputError: when the server refuses the request, for instance because it is longer than the context.
    """
    return str(complete(address, messages, max_tokens, temperature)["message"]["content"] or "")


def curl_example(deployment: Deployment, sentence: str) -> str:
    """A shell command that asks the deployed model the sentence."""
    body = {"model": deployment.model_name, "messages": [{"role": "user", "content": sentence}], "max_tokens": 256}
    return (
        f"curl {shlex.quote(deployment.address + '/chat/completions')} \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )
