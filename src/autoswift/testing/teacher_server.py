"""A teacher without a model: an OpenAI-compatible server that writes requests, poems and judgements by rule.

The same question gets the same answer. Its poems are couplets of Tang poems put together, so there are tens of
thousands of them. A small share of what it says is bad on purpose, as a real model's is: nearly the same request
twice, refusals, English, answers cut off, poor ones. `with TeacherServer() as server:` or
`python -m autoswift.testing.teacher_server PORT`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from autoswift.testing.shelf import poems

MODEL = "rule-based-poet"
THEMES = (
    "春雨",
    "秋江",
    "寒山",
    "归舟",
    "夜雪",
    "晓钟",
    "落花",
    "孤雁",
    "明月",
    "古寺",
    "边城",
    "渔火",
    "柳岸",
    "梅影",
    "荷风",
)
FEELINGS = ("思乡", "送别", "怀友", "闲适", "豪迈", "惆怅", "感时", "自勉")
PLACES = ("江楼", "山寺", "驿站", "渡口", "小院", "长亭", "湖上", "关外", "竹林", "书斋")
ASKED = (
    "以“{title}”为题，写一首{form}，写{place}所见的{theme}，带一点{feeling}之情。",
    "请作一首{form}，题目是“{title}”，意象要有{theme}，情调{feeling}。",
    "我在{place}遇见{theme}，想要一首{form}，题为“{title}”，表达{feeling}。",
    "{form}一首，题“{title}”：{place}、{theme}、{feeling}，三者都要写到。",
)
BAD_EACH = 12
"""One of so many answers is bad."""


@dataclass
class TeacherServer:
    """The server.

    Attributes:
        bad: whether it makes mistakes.
        key: what a client must send; empty asks for none.
        failing: statuses that the next questions get instead of an answer.
        knows_schemas: else it refuses `response_format` with 400, as simple servers do.
        seconds: that each answer takes.
        port: where; 0 takes a free one.
        asked: questions by kind.
    """

    bad: bool = True
    key: str = ""
    failing: list[int] = field(default_factory=list)
    knows_schemas: bool = True
    seconds: float = 0.0
    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> TeacherServer:
        """Starts to listen."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.daemon_threads = True
        self._server.teacher = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.port = self._server.server_port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        """For `AUTOSWIFT_TEACHER_BASE_URL`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def environment(self) -> dict[str, str]:
        """Variables that make it the teacher."""
        names = {"BASE_URL": self.base_url, "MODEL": MODEL} | ({"API_KEY": self.key} if self.key else {})
        return {f"AUTOSWIFT_TEACHER_{name}": value for name, value in names.items()}

    def say(self, messages: list[Mapping[str, Any]]) -> tuple[str, str, str]:
        """What kind of question it is, the answer, and why it ended."""
        said = str(messages[-1]["content"])
        draw = random.Random(hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest())  # noqa: S311
        if '"instructions"' in said:
            wanted = re.search(r"(?:写出|write) (\d+)", said)
            count = int(wanted[1]) if wanted else 8
            return "instruct", json.dumps({"instructions": self._requests(draw, count)}, ensure_ascii=False), "stop"
        if '"score"' in said:
            return "judge", json.dumps(self._judgement(said), ensure_ascii=False), "stop"
        return ("answer", *self._poem(said, draw))

    def _requests(self, draw: random.Random, count: int) -> list[str]:
        found = []
        for _ in range(count):
            poem = draw.choice(poems())
            form = "五言绝句" if len(poem["lines"][0]) == 6 else "七言绝句"
            words = {"theme": draw.choice(THEMES), "feeling": draw.choice(FEELINGS), "place": draw.choice(PLACES)}
            found.append(draw.choice(ASKED).format(title=poem["title"], form=form, **words))
        if self.bad:
            mistakes = (found[0].replace("，", ", "), "诗", "Please write a short poem about the sea in English.")
            found[-1] = draw.choice(mistakes)
        return found

    def _poem(self, asked: str, draw: random.Random) -> tuple[str, str]:
        """A couplet of the poem that the request names, and one of another of the same form."""
        named = [p for p in poems() if f"“{p['title']}”" in asked]
        first = named[0] if named else draw.choice(poems())
        same = [p for p in poems() if len(p["lines"][0]) == len(first["lines"][0]) and p is not first]
        lines = [*first["lines"][:2], *draw.choice(same)["lines"][2:]]
        whole = "\n".join(lines)
        if self.bad and draw.randrange(BAD_EACH) == 0:
            mistakes = (
                ("抱歉，作为一个人工智能语言模型，我无法写诗。", "stop"),
                (whole[: len(whole) // 2], "length"),
                ("好" * 40, "stop"),
                ("I would rather answer in English: roses are red, violets are blue.", "stop"),
                ("\n".join([*lines[:3], "今天天气不错啊"]), "stop"),
            )
            return draw.choice(mistakes)
        return whole, "stop"

    def _judgement(self, said: str) -> dict[str, Any]:
        """Whether the four lines are of one length."""
        answer = re.search(r"<(?:回答|answer)>\s*(.*?)\s*</", said, re.DOTALL)
        lines = answer[1].split("\n") if answer else []
        if len(lines) == 4 and len({len(line) for line in lines}) == 1:
            return {"score": 5, "reason": "四句齐整，切题。"}
        return {"score": 2, "reason": "句式不整，不成诗。"}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients break off, and tests are about what they make of it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: else each answer waits 40 ms for an acknowledgement

    @property
    def teacher(self) -> TeacherServer:
        return self.server.teacher  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        """/health and /v1/models."""
        self._answer(200, {"status": "ok", "object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        """/v1/chat/completions."""
        teacher = self.teacher
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or body.get("model") != MODEL:
            self._answer(404, {"error": {"message": f"no model {body.get('model')}"}})
            return
        if teacher.key and self.headers.get("Authorization") != f"Bearer {teacher.key}":
            self._answer(401, {"error": {"message": "invalid key"}})
            return
        if teacher.failing:
            self._answer(teacher.failing.pop(0), {"error": {"message": "busy"}})
            return
        if "response_format" in body and not teacher.knows_schemas:
            self._answer(400, {"error": {"message": "unknown field response_format"}})
            return
        time.sleep(teacher.seconds)
        kind, said, finish = teacher.say(body["messages"])
        teacher.asked[kind] += 1
        read, written = sum(len(str(m["content"])) for m in body["messages"]), len(said)
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        head = {"id": "0", "object": "chat.completion", "created": 0, "model": MODEL}
        self._answer(200, head | {"choices": [choice], "usage": usage})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `asked` counts."""

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)


def main(arguments: list[str]) -> int:
    """Serves PORT until it is ended."""
    with TeacherServer(port=int(arguments[0]) if arguments else 0) as server:
        print(server.base_url, flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
