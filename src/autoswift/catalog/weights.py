"""Weights as safetensors: headers checked to the last byte, shards against their index. No tensor is loaded."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from autoswift.catalog import strictjson
from autoswift.catalog.names import PICKLES
from autoswift.errors import ModelError
from autoswift.tables import explain

HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header: the format's own limit."""
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
PACKED = ("_packed", ".qweight", ".qzeros", ".scales", ".quant_map", ".absmax")
"""Endings of tensors of already quantized weights, which cannot be trained on and counted this way."""
INDEX = "model.safetensors.index.json"


def header_length(start: bytes, size: int, path: Path | str) -> int:
    """The length that a file's first 8 bytes announce.

    Raises:
        ModelError: when no header can have it in a file of `size` bytes.
    """
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 0 < length <= min(HEADER_LIMIT, max(size - 8, 0)):
        raise ModelError(*explain("folder.damaged_start", path=path, size=size))
    return int(length)


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file: name to dtype, shape, data_offsets.

    Raises:
        ModelError: when it is not one, or the file is not what its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        length = header_length(f.read(8), size, path)
        raw = f.read(length)
    return parse_header(raw, size, path)


def parse_header(raw: bytes, size: int, path: Path | str) -> dict[str, dict[str, Any]]:
    """Checks a header against the size of its file: tensors lie side by side, from the first byte to the last.

    Args:
        raw: the header alone.
        size: bytes of the whole file.
        path: for the error.

    Raises:
        ModelError: it is no header, or tensors overlap, leave gaps or lie outside.
    """
    try:
        if not raw.startswith(b"{"):
            raise ValueError("no object")
        header = strictjson.parse(raw, path)
        tensors = {name: _tensor(value) for name, value in header.items() if name != "__metadata__"}
        _metadata(header.get("__metadata__", {}))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as exc:
        raise ModelError(*explain("folder.damaged_header", path=path)) from exc
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = tensor["data_offsets"]
        # An empty tensor must not lie inside another one either, though it holds no byte.
        if begin != end:
            raise ModelError(*explain("folder.damaged_layout", path=path, tensor=name[:80]))
        end = stop
    if 8 + len(raw) + end != size:
        raise ModelError(*explain("folder.damaged_size", path=path, said=8 + len(raw) + end, size=size))
    return tensors


def _tensor(value: Any) -> dict[str, Any]:
    """One row of the header, its numbers checked; raises ValueError."""
    shape, offsets, dtype = list(value["shape"]), list(value["data_offsets"]), str(value["dtype"])
    if len(offsets) != 2 or any(type(n) is not int or n < 0 for n in (*shape, *offsets)):
        raise ValueError("numbers")
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise ValueError("size")
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _metadata(value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError("metadata")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, in order.

    Raises:
        ModelError: when there are none, or one named by the index is missing.
    """
    index = folder / INDEX
    if index.is_file():
        shards = sorted(set(index_of(folder).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                *explain(
                    "folder.shards",
                    folder=folder,
                    missing=len(missing),
                    all=len(shards),
                    first=missing[0],
                    file=index.name,
                )
            )
        return [folder / name for name in shards]
    # Adapters and optimizer states may lie beside a model; a plain model's weights begin with "model".
    found = sorted(p for p in folder.glob("*.safetensors") if p.is_file() and not p.name.startswith("adapter_"))
    preferred = [p for p in found if p.name.startswith("model")]
    if not (preferred or found):
        raise _no_safetensors(folder)
    return preferred or found


def index_of(folder: Path) -> dict[str, str]:
    """The index as tensor name to file name; empty without an index.

    Raises:
        ModelError: when it names no weights, or something else than safetensors files beside it.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    mapping = strictjson.read(path).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise ModelError(*explain("folder.index_empty", index=path))
    for name in set(map(str, mapping.values())):
        if Path(name).name != name or name.startswith(".") or "\\" in name or "\0" in name:
            raise ModelError(*explain("folder.index_outside", index=path, name=ascii(name)))
        if not name.endswith(".safetensors"):
            raise ModelError(*explain("folder.pickles", folder=folder, file=name))
    return {str(tensor): str(name) for tensor, name in mapping.items()}


def count(
    headers: dict[str, dict[str, dict[str, Any]]], index: dict[str, str], folder: Path | str
) -> tuple[int, set[str]]:
    """Number of parameters and the tensors' names, of all shards together.

    Args:
        headers: file name to its header.
        index: tensor name to file name; empty for a model without one.
        folder: for the error.

    Raises:
        ModelError: quantized weights, a tensor in two files, or one that is not where the index says (loaded all the
            same, its place in the model would be filled with random numbers).
    """
    total, where = 0, dict[str, str]()
    for file, tensors in headers.items():
        for name, tensor in tensors.items():
            if name.endswith(PACKED):
                raise ModelError(*explain("folder.quantized", folder=folder, file=file, tensor=name))
            if name in where:
                raise ModelError(*explain("folder.tensor_twice", folder=folder, tensor=name[:80], file=file))
            where[name] = file
            total += math.prod(tensor["shape"])
    wrong = next((name for name in sorted(index) if where.get(name) != index[name]), "")
    if wrong:
        raise ModelError(*explain("folder.index_wrong", folder=folder, index=INDEX, tensor=wrong[:80]))
    return total, set(where)


def is_sentencepiece(path: Path) -> bool:
    """Whether a .model file is a SentencePiece model: a protocol buffer of that message, first byte to last.

    A pickle or a zip archive under that name is not.
    """
    raw = path.read_bytes() if path.stat().st_size <= strictjson.LARGE else b""
    at, pieces = 0, 0
    while at < len(raw):
        # Fields of ModelProto, all length-delimited: 1 pieces, 2 trainer, 3 normalizer, 4 self-test, 5 denormalizer.
        tag = raw[at]
        if tag not in (0x0A, 0x12, 0x1A, 0x22, 0x2A):
            return False
        length, begin = _varint(raw, at + 1)
        if length < 0 or begin + length > len(raw):
            return False
        if tag == 0x0A:
            pieces += 1
            if length and raw[begin] != 0x0A:  # a piece begins with its text
                return False
        at = begin + length
    return pieces > 0


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Value and the place behind it; -1 when there is none."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(raw):
            return -1, at
        value |= (raw[at] & 0x7F) << shift
        at += 1
        if not raw[at - 1] & 0x80:
            return value, at
    return -1, at


def _no_safetensors(folder: Path) -> ModelError:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES and p.is_file())
    if pickles:
        return ModelError(*explain("folder.pickles", folder=folder, file=pickles[0]))
    if any(folder.glob("*.gguf")):
        return ModelError(*explain("folder.gguf_weights", folder=folder))
    return ModelError(*explain("folder.no_weights", folder=folder))
