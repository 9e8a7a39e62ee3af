"""Parquet and Arrow (what `datasets` saves), batch by batch."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoswift.understand import encoding
from autoswift.understand.readers.base import MAX_COLUMNS, MAX_DEPTH, Job, Stream
from autoswift.understand.readers.jsonlines import too_deep
from autoswift.understand.records import Record

BATCH = 1024
"""Rows that are in memory at once: some megabytes of dialogues."""
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "BMP": "image/bmp", "WebP": "image/webp"}


def read(stream: Stream, job: Job) -> Iterator[Record]:
    """The rows of a Parquet file; `line` is None.

    Raises:
        DataError: binary_garbage (broken), too_large, too_many_columns.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    job.format = "parquet"
    try:
        with pq.ParquetFile(_source(stream, job)) as file:
            yield from _rows(file.schema_arrow, file.iter_batches(batch_size=BATCH), job)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise job.error("binary_garbage", where={"line": 1}, found=f"Parquet: {str(exc)[:80]}") from exc


def read_arrow(stream: Stream, job: Job) -> Iterator[Record]:
    """The rows of an Arrow file or stream; `line` is None.

    Raises:
        DataError: as `read`.
    """
    import pyarrow as pa

    job.format = "arrow"
    whole = stream.peek(6) == b"ARROW1"
    try:
        source = _source(stream, job)
        with pa.memory_map(str(source)) if isinstance(source, Path) else pa.BufferReader(source.read()) as data:
            table = pa.ipc.open_file(data) if whole else pa.ipc.open_stream(data)
            batches = (table.get_batch(i) for i in range(table.num_record_batches)) if whole else iter(table)
            small = (batch.slice(i, BATCH) for batch in batches for i in range(0, batch.num_rows, BATCH))
            yield from _rows(table.schema, small, job)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise job.error("binary_garbage", where={"line": 1}, found=f"Arrow: {str(exc)[:80]}") from exc


def _source(stream: Stream, job: Job) -> Path | io.BytesIO:
    """The file, or all of it where it stands in an archive.

    Raises:
        DataError: too_large.
    """
    if stream.path is not None:
        return stream.path
    data = stream.peek(job.limits.document + 1)
    if len(data) > job.limits.document:
        raise job.error("too_large", size=len(data) // 2**20, limit=job.limits.document // 2**20)
    return io.BytesIO(data)


def _rows(schema: Any, batches: Iterator[Any], job: Job) -> Iterator[Record]:
    import pyarrow as pa

    if len(schema.names) > MAX_COLUMNS:
        raise job.error("too_many_columns", count=len(schema.names), limit=MAX_COLUMNS)
    job.check_columns(schema.names, None)
    odd = [name for name in schema.names if not _is_json(schema.field(name).type, pa)]
    nested = any(pa.types.is_nested(t) for t in schema.types)
    for batch in batches:
        for row in batch.to_pylist():
            for name in odd:
                row[name] = plain(row[name])
            if nested and too_deep(row):
                job.add("deep_nesting", "warn", where={"row": job.row + 1}, limit=MAX_DEPTH)
                job.lose("deep_nesting")
                continue
            job.row += 1
            yield Record(row, job.file, None, job.row, job.member)


def _is_json(kind: Any, pa: Any) -> bool:
    """Whether pyarrow gives values of a type as JSON knows them."""
    types = pa.types
    if types.is_struct(kind):
        return all(_is_json(kind.field(i).type, pa) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json(kind.value_type, pa)
    if types.is_dictionary(kind):
        return _is_json(kind.value_type, pa)
    checks: tuple[Callable[[Any], bool], ...] = (
        *(types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null),
    )
    return any(check(kind) for check in checks)


def plain(value: Any) -> Any:
    """A value as JSON knows it; a picture in its bytes becomes a data URI, which ms-swift takes as a picture."""
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), bytes) and value.keys() <= {"bytes", "path"}:
            return _blob(value["bytes"])
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return _blob(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return str(value) if isinstance(value, dt.timedelta) else value


def _blob(data: bytes) -> str:
    kind = encoding.magic(data)
    if kind and kind[0] == "image":
        return f"data:{_MIME.get(kind[1], 'image/tiff')};base64,{base64.b64encode(data).decode()}"
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
