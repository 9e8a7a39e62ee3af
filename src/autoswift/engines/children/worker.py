"""A resident process that answers questions about models: JSON lines in, JSON lines out.

Request `{"id": n, "do": name, …}` on stdin; reply `{"id": n, "ok": true, "result": {…}}` or `{"id": n,
"ok": false, "error": {"type", "message"}}` on the original stdout. File descriptor 1 is redirected to stderr
at the start, so that nothing a library prints can corrupt the protocol. Ends at the end of stdin. Torch and
swift are imported by the first command that needs them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

Request = dict[str, Any]
Result = dict[str, Any]

DTYPES = ("float32", "bfloat16", "float16")
PROBE = "autoswift-probe"


class Refused(ValueError):
    """The request names something this worker will not or cannot use."""


def _sibling(name: str) -> Any:
    """The module of this folder, by path: the folder is no package in this environment."""
    key = f"autoswift_child_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, Path(__file__).with_name(f"{name}.py"))
        if spec is None or spec.loader is None:
            raise ImportError(f"{name}.py is missing beside {__file__}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


def _folder(path: Any) -> Path:
    folder = Path(str(path))
    if not folder.is_dir():  # swift would look a missing path up on a hub
        raise Refused(f"there is no folder {folder}")
    return folder


def refuse_foreign_code(folder: Path) -> None:
    """Refuse a folder whose code would run: swift loads every model with trust_remote_code."""
    if (folder / "custom_generate").exists():
        raise Refused(f"{folder} carries its own generation code (custom_generate)")
    for file in sorted(folder.glob("*.json")):
        if file.name in ("tokenizer.json", "vocab.json"):  # large, and nobody looks for code there
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("auto_map"):
            raise Refused(f"{file} names code of its own (auto_map)")


def _safetensors(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:  # what is left are pickles
        raise Refused(f"{folder} holds no safetensors file")
    return files


class Worker:
    """The commands, and the one model that is loaded."""

    def __init__(self) -> None:
        self.model: Any = None
        self.template: Any = None

    def ping(self, request: Request) -> Result:
        """Versions of the libraries and the device."""
        import torch
        from swift.utils import get_device

        versions: dict[str, str | None] = {"python": sys.version.split()[0]}
        names = {"torch": "torch", "transformers": "transformers", "swift": "ms-swift", "peft": "peft"}
        for name, package in names.items():
            versions[name] = importlib.metadata.version(package)
        versions["torch"] = torch.__version__
        return {"versions": versions, "device": str(get_device()), "threads": torch.get_num_threads()}

    def load(self, request: Request) -> Result:
        """Load a model, and an adapter onto it, with swift's loader and template; frees the one before."""
        import torch
        from swift.model import get_model_processor
        from swift.template import get_template

        begun = time.perf_counter()
        folder = _folder(request["model"])
        adapter = _folder(request["adapter"]) if request.get("adapter") else None
        for place in (folder, adapter):
            if place is not None:
                refuse_foreign_code(place)
                _safetensors(place)
        dtype = request.get("dtype")
        if dtype is not None and dtype not in DTYPES:
            raise Refused(f"dtype is one of {', '.join(DTYPES)}")
        self.unload({})
        if request.get("threads"):
            torch.set_num_threads(int(request["threads"]))
        model, processor = get_model_processor(
            str(folder),
            torch_dtype=getattr(torch, dtype) if dtype else None,
            model_type=request.get("model_type"),
        )
        if adapter is not None:
            from swift.tuners import Swift

            model = Swift.from_pretrained(model, str(adapter))
        self.template = get_template(
            processor, template_type=request.get("template"), default_system=request.get("system")
        )
        self.template.set_mode("transformers")
        self.model = model.eval()
        info = self.template.model_info
        return {
            "seconds": time.perf_counter() - begun,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "model_type": info.model_type,
            "template": self.template.template_meta.template_type,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "default_system": self._default_system(),
        }

    def unload(self, request: Request) -> Result:
        """Free the model."""
        import torch

        self.model = self.template = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {}

    def _loaded(self) -> tuple[Any, Any, Any]:
        if self.model is None:
            raise Refused("no model is loaded")
        return _sibling("answering"), self.model, self.template

    def _chat_ids(self, messages: list[Any]) -> list[int] | None:
        """What the folder's own chat template (the one servers use) makes of a prompt."""
        tokenizer = self.template.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return None
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(tokenizer.encode(text, add_special_tokens=False))

    def _default_system(self) -> str | None:
        """The system message that the folder's chat template puts in by itself, if it does.

        swift's templates mostly do not: a training without it would not match the server's prompts.
        """
        tokenizer = self.template.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return None
        user = {"role": "user", "content": "?"}
        try:
            bare = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
            asked = tokenizer.apply_chat_template(
                [{"role": "system", "content": PROBE}, user], add_generation_prompt=True, tokenize=False
            )
        except Exception:  # a template may refuse a system message, by an error of its own
            traceback.print_exc()
            return None
        before, found, after = asked.partition(PROBE)
        if not found or not bare.startswith(before) or not bare.endswith(after):
            return None
        return str(bare[len(before) : len(bare) - len(after)]) or None

    def generate(self, request: Request) -> Result:
        """Greedy answers to the rows' prompts."""
        answering, model, template = self._loaded()
        begun = time.perf_counter()
        answers = answering.generate(
            model,
            template,
            request["rows"],
            max_new_tokens=int(request.get("max_new_tokens", 128)),
            batch_size=int(request.get("batch_size", 8)),
        )
        return {"answers": [answer.as_json() for answer in answers], "seconds": time.perf_counter() - begun}

    def score(self, request: Request) -> Result:
        """Negative log-likelihood of each row's last assistant message."""
        answering, model, template = self._loaded()
        scores = answering.score(model, template, request["rows"], batch_size=int(request.get("batch_size", 8)))
        return {"rows": [{"nll_sum": row.nll_sum, "tokens": row.tokens} for row in scores]}

    def choose(self, request: Request) -> Result:
        """Negative log-likelihood of each of the `options` (a list a row) as the answer to the row's prompt.

        A value that is not finite is null.
        """
        answering, model, template = self._loaded()
        size = int(request.get("batch_size", 8))
        options = [[str(one) for one in given] for given in request["options"]]
        if not all(options):
            raise Refused("every row needs an option")
        found = answering.choose(model, template, request["rows"], options, size)
        nlls = [[one.nll_sum if math.isfinite(one.nll_sum) else None for one in row] for row in found]
        return {
            "rows": [{"nll_sums": n, "tokens": [one.tokens for one in row]} for n, row in zip(nlls, found, strict=True)]
        }

    def next_token(self, request: Request) -> Result:
        """The likeliest first tokens of each answer, or what follows the last `places` of raw `ids`."""
        answering, model, template = self._loaded()
        prompts = request.get("ids") or answering.prompt_ids(model, template, request["rows"])
        places = int(request.get("places", 1))
        return {"rows": answering.next_token(model, template, prompts, int(request.get("top", 5)), places)}

    def encode(self, request: Request) -> Result:
        """Token ids of the prompts by swift's template, and by the folder's chat template."""
        answering, model, template = self._loaded()
        rows = answering.prompt_ids(model, template, request["rows"])
        chat = [self._chat_ids(answering.prompt_of(row)["messages"]) for row in request["rows"]]
        return {"rows": rows, "chat_template_rows": chat, "stop_ids": answering.stop_ids(template)}

    def adapter_info(self, request: Request) -> Result:
        """Is there anything in an adapter? The norm is that of the lora_B tensors, which start at zero."""
        from safetensors import safe_open

        files = _safetensors(_folder(request["path"]))
        norms: dict[str, float] = {}
        parameters = 0
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    tensor = tensors.get_tensor(name)
                    parameters += tensor.numel()
                    norms[name] = float(tensor.double().norm())
        grown = [value for name, value in norms.items() if "lora_B" in name or "lora_embedding_B" in name]
        norm = sum(grown or norms.values())
        return {
            "tensors": len(norms),
            "parameters": parameters,
            "nonzero": norm > 0,
            "norm": norm,
            "files": [file.name for file in files],
        }

    def compare_models(self, request: Request) -> Result:
        """Are the weights of two folders equal? One pair of tensors in memory at a time."""
        import torch

        left, right = (dict(_tensor_places(_folder(request[key]))) for key in ("a", "b"))
        missing = sorted(left.keys() ^ right.keys())
        different, greatest = 0, 0.0
        for name in sorted(left.keys() & right.keys()):
            one, other = _tensor(left[name], name).float(), _tensor(right[name], name).float()
            if one.shape != other.shape:
                missing.append(name)
            elif not torch.equal(one, other):  # also when one holds a NaN, which no difference shows
                different += 1
                greatest = max(greatest, float((one - other).abs().nan_to_num(math.inf).max()))
        return {
            "equal": not missing and not different,
            "max_abs_difference": greatest if math.isfinite(greatest) else None,
            "tensors_different": different + len(missing),
            "tensors_compared": len(left.keys() & right.keys()),
            "missing": missing[:20],
        }

    def gguf_info(self, request: Request) -> Result:
        """What a GGUF file holds."""
        import gguf

        path = Path(str(request["path"]))
        if not path.is_file():
            raise Refused(f"there is no file {path}")
        reader = gguf.GGUFReader(path)

        def value(name: str) -> Any:
            found = reader.fields.get(name)
            return None if found is None else found.contents()

        architecture, file_type = value("general.architecture"), value("general.file_type")
        return {
            "architecture": architecture,
            "file_type": None if file_type is None else gguf.LlamaFileType(file_type).name,
            "quantization": dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
            "bytes": path.stat().st_size,
            "tensor_bytes": sum(int(tensor.n_bytes) for tensor in reader.tensors),
            "tensors": len(reader.tensors),
            "chat_template": value("tokenizer.chat_template") is not None,
            "eos_id": value("tokenizer.ggml.eos_token_id"),
            "context_length": value(f"{architecture}.context_length"),
        }


COMMANDS: dict[str, Callable[[Worker, Request], Result]] = {
    "ping": Worker.ping,
    "load": Worker.load,
    "unload": Worker.unload,
    "generate": Worker.generate,
    "score": Worker.score,
    "choose": Worker.choose,
    "next_token": Worker.next_token,
    "encode": Worker.encode,
    "adapter_info": Worker.adapter_info,
    "compare_models": Worker.compare_models,
    "gguf_info": Worker.gguf_info,
}


def _tensor_places(folder: Path) -> Iterator[tuple[str, Path]]:
    from safetensors import safe_open

    for file in _safetensors(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield name, file


def _tensor(file: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(name)


def answer(worker: Worker, line: str) -> Result:
    """The reply to one line; a failure becomes an error reply, its traceback goes to stderr."""
    number: Any = None
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise Refused("a request is a JSON object")
        number = request.get("id")
        command = COMMANDS.get(str(request.get("do")))
        if command is None:
            raise Refused(f"unknown command {request.get('do')!r}; known: {', '.join(COMMANDS)}")
        return {"id": number, "ok": True, "result": command(worker, request)}
    except Exception as error:
        traceback.print_exc()
        message = f"missing field {error}" if isinstance(error, KeyError) else str(error)
        return {"id": number, "ok": False, "error": {"type": type(error).__name__, "message": message}}


def _reply(replies: TextIO, reply: Result) -> None:
    try:
        line = json.dumps(reply, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        failure = {"type": "NotFinite", "message": f"the result is not a number: {error}"}
        line = json.dumps({"id": reply["id"], "ok": False, "error": failure})
    replies.write(line + "\n")
    replies.flush()


def main() -> int:
    """Serve until the end of stdin."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    # libraries that ask questions must not eat requests
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    worker = Worker()
    for line in requests:
        if line.strip():
            _reply(replies, answer(worker, line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
