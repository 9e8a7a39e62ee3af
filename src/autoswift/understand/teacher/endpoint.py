"""One question to an OpenAI-compatible endpoint: with retries, and with what its server understands."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autoswift.domain.protocols import Question, Reply
from autoswift.errors import HubUnreachable, InputError
from autoswift.tables import explain, told

if TYPE_CHECKING:
    import httpx

TRIES = 5
"""Of one question, waiting 1, 2, 4 and 8 seconds between them: servers are full for moments."""
LONGEST_WAIT = 60.0
"""Seconds that a server's Retry-After is followed; more is a quota for today, and the budget's time is better spent."""
SECONDS = 180.0
"""That one answer may take: 800 tokens at 5 a second, what a small model does on a laptop."""
LARGEST = 2**22
"""Bytes of an answer that are read."""
CHARACTERS_PER_TOKEN = 2.0
"""Where a server does not count: between Chinese (about 1.4) and English (about 4)."""
_THOUGHT = re.compile(r"^\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
FORMATS = ("json_schema", "json_object", "")
"""How an answer's shape is asked for, the strictest first; a server that refuses one is asked with the next."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a teacher is asked. `key` is sent to that address and written nowhere."""

    base_url: str
    model: str
    key: str = ""

    def __repr__(self) -> str:
        return f"Endpoint({self.host!r}, {self.model!r})"

    @property
    def host(self) -> str:
        """Host and port."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"


def endpoint_from(environ: Mapping[str, str] | None = None) -> Endpoint | None:
    """The teacher that the user configured: `AUTOSWIFT_TEACHER_*`, else `AUTOSWIFT_LLM_*`; None without one.

    Raises:
        InputError: when it is configured by half, or its address is none.
    """
    env = os.environ if environ is None else environ
    for prefix in ("AUTOSWIFT_TEACHER_", "AUTOSWIFT_LLM_"):
        base_url = env.get(f"{prefix}BASE_URL", "").strip().rstrip("/")
        if not base_url:
            continue
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(*explain("teacher.bad_address", name=f"{prefix}BASE_URL", address=base_url))
        model = env.get(f"{prefix}MODEL", "").strip()
        if not model:
            raise InputError(*explain("teacher.no_model", name=f"{prefix}MODEL"))
        return Endpoint(base_url, model, env.get(f"{prefix}API_KEY", "").strip())
    return None


def teacher_from(environ: Mapping[str, str] | None = None) -> HttpTeacher | None:
    """The configured teacher, not asked yet; None without one.

    Raises:
        InputError: as `endpoint_from`.
    """
    found = endpoint_from(environ)
    return HttpTeacher(found) if found is not None else None


class HttpTeacher:
    """A teacher over http; safe to use from several threads.

    Args:
        endpoint: where.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.model, self.host = endpoint.model, endpoint.host
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._format = 0
        self._limit_name = "max_tokens"
        self._temperature = True

    def ask(self, question: Question) -> Reply:
        """One answer. An empty one with `finish` error stands for a question that the server will not answer.

        Raises:
            InputError: when it refuses all questions: key, model name, address.
            HubUnreachable: when it does not answer, again and again.
        """
        import httpx

        why = ""
        tries = 0
        while tries < TRIES:
            if self._closed.is_set():
                break
            form = (self._format, self._limit_name, self._temperature)
            try:
                answer = self._http().post(f"{self.endpoint.base_url}/chat/completions", json=self._body(question))
            except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as exc:  # RuntimeError: closed while it waited
                tries += 1
                why = str(exc) or type(exc).__name__
                self._closed.wait(2.0 ** (tries - 1) if tries < TRIES else 0.0)
                continue
            status = answer.status_code
            if status < 300:
                return _reply(answer.content[:LARGEST], question)
            if status in (400, 422) and self._adapted(answer.text, form):
                continue  # the question was never considered: no try is spent
            self._refused(status)
            if status in (400, 413, 422):
                return Reply(text="", finish=f"error {status}")
            tries += 1
            why = f"status {status}"
            self._closed.wait(_patience(answer.headers.get("Retry-After"), tries) if tries < TRIES else 0.0)
        raise HubUnreachable(*explain("teacher.unreachable", host=self.host, evidence=why or told("error.unknown")))

    def close(self) -> None:
        """Ends what is under way: questions that wait give up, sockets are closed."""
        self._closed.set()
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _http(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                headers = {"User-Agent": "autoswift"}
                if self.endpoint.key:
                    headers["Authorization"] = f"Bearer {self.endpoint.key}"
                # Redirects are not followed: the key is for this address, and so is the user's trust.
                self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(SECONDS, connect=10.0))
            return self._client

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(m) for m in question.messages],
            self._limit_name: question.max_tokens,
        }
        if self._temperature:
            body["temperature"] = question.temperature
        if question.schema is not None and FORMATS[self._format] == "json_schema":
            named = {"name": question.kind, "strict": True, "schema": dict(question.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif question.schema is not None and FORMATS[self._format]:
            body["response_format"] = {"type": FORMATS[self._format]}
        return body

    def _adapted(self, said: str, form: tuple[int, str, bool]) -> bool:
        """Leaves out what the server says it does not know; whether another form is worth a question."""
        low = said.lower()
        with self._lock:
            if form != (self._format, self._limit_name, self._temperature):
                return True  # another thread has found out meanwhile
            if "max_completion_tokens" in low and self._limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
            elif "temperature" in low and self._temperature:
                self._temperature = False
            elif re.search(r"response_format|json_schema|json_object|schema|grammar", low) and FORMATS[self._format]:
                self._format += 1
            else:
                return False
            return True

    def _refused(self, status: int) -> None:
        """Raises for what no other question would change."""
        if status in (401, 403):
            raise InputError(*explain("teacher.refused", host=self.host, status=status))
        if status in (404, 405) or 300 <= status < 400:
            raise InputError(*explain("teacher.absent", host=self.host, model=self.model, status=status))


def _patience(wanted: str | None, tries: int) -> float:
    """Seconds to wait: what the server asks for, or twice as long each time."""
    try:
        return min(LONGEST_WAIT, max(0.0, float(wanted or "")))
    except ValueError:
        return float(2.0 ** (tries - 1))


def _reply(content: bytes, question: Question) -> Reply:
    """The answer's text; empty with `finish` error when it is not what such a server says."""
    import json

    try:
        value = json.loads(content)
        choice = value["choices"][0]
        said = choice["message"].get("content")
        finish = str(choice.get("finish_reason") or "stop")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return Reply(text="", finish="error shape")
    if isinstance(said, list):  # parts, as some servers send them
        said = "".join(str(part.get("text") or "") for part in said if isinstance(part, dict))
    usage = value.get("usage") if isinstance(value.get("usage"), dict) else {}
    text = _THOUGHT.sub("", said if isinstance(said, str) else "").strip()
    counted = usage.get("total_tokens")
    if not isinstance(counted, int) or counted < 0:
        read = sum(len(str(m.get("content", ""))) for m in question.messages)
        counted = int((read + len(str(said or ""))) / CHARACTERS_PER_TOKEN)
    return Reply(text=text, finish=finish, tokens=counted)
