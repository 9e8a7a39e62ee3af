"""Records the table of fine-tuning curves that the simulated engine replays. Control side: no torch.

On a GPU, one command a call of at most eight minutes, the same again until it says `complete` (what is done is kept in
the work folder, or taken from an earlier call's parts by --resume):

    python benchmarks/record_curves.py --corpora corpora.json.gz --work /tmp/curves --out OUT --seconds 450

writes OUT/base.npz (the pre-trained base), OUT/tokens.npz, OUT/parts.npz (the packs so far) and, when complete,
OUT/curves.npz (the table). `--size tiny` is the setting for a CPU. `scripts/curve_corpora.py` makes the corpora file.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CHILD = HERE / "children" / "curves.py"
WARMUPS = (0.0, 0.03, 0.1)
"""Share of the steps of WARMUP_PASSES passes, so that one curve serves trials of every length."""
WARMUP_PASSES = 2
SEEDS = (11, 12)


@dataclass(frozen=True)
class Size:
    """One setting of the recorder.

    Attributes:
        rows, validation: of each corpus; rows of `length` tokens.
        pack_tokens: in one step of a pack; wide enough to fill the device, narrow enough for its memory.
        per_octave: checkpoints a doubling of the tokens.
        rates: lowest and highest learning rate, drawn evenly in the logarithm.
        passes: a curve's length; trials of fewer passes are its checkpoints.
        zh_share: of the Chinese pre-training text, that the base reads beside the English.
    """

    model: dict[str, int]
    corpora: tuple[str, ...]
    rows: int
    validation: int
    configurations: int
    batches: tuple[int, ...]
    ranks: tuple[int, ...]
    rates: tuple[float, float]
    pack_tokens: int
    eval_tokens: int
    pretrain: dict[str, Any]
    passes: int = 8
    zh_share: float = 0.3
    per_octave: int = 4
    octaves: float = 4.0


SIZES = {
    # A base of 6 million parameters; 4 x 210 x 2 curves of 393,216 tokens.
    "gpu": Size(
        model={"hidden": 256, "layers": 6, "heads": 8, "intermediate": 688, "vocabulary": 4096, "length": 128},
        corpora=("customer", "tang", "pydoc", "code"),
        rows=384,
        validation=64,
        configurations=210,
        batches=(1, 2, 4, 8, 16, 32, 64),
        ranks=(4, 8, 16, 32, 64),
        rates=(3e-5, 1e-1),
        pack_tokens=65_536,
        eval_tokens=131_072,
        pretrain={"seconds": 90.0, "steps": 2_000, "batch": 128, "rate": 2e-3},
    ),
    # A base of 25 thousand parameters, one block: 3 x 205 x 2 curves of 12,288 tokens in five minutes of one core.
    "tiny": Size(
        model={"hidden": 32, "layers": 1, "heads": 2, "intermediate": 88, "vocabulary": 384, "length": 32},
        corpora=("customer", "tang", "code"),
        rows=96,
        validation=16,
        configurations=205,
        batches=(2, 4, 8, 16, 32),
        ranks=(2, 4, 8, 16),
        rates=(2e-4, 5e-1),
        pack_tokens=4096,
        eval_tokens=8192,
        pretrain={"seconds": 150.0, "steps": 1000, "batch": 64, "rate": 4e-3},
        passes=4,
        zh_share=0.0,
        octaves=3.5,
    ),
    # 38 thousand parameters, two blocks: 3 x 204 x 2 curves of 20,480 tokens in a quarter of an hour of one core.
    "small": Size(
        model={"hidden": 32, "layers": 2, "heads": 2, "intermediate": 88, "vocabulary": 384, "length": 32},
        corpora=("customer", "tang", "code"),
        rows=160,
        validation=24,
        configurations=204,
        batches=(2, 4, 8, 16, 32, 64),
        ranks=(2, 4, 8, 16),
        rates=(2e-4, 5e-1),
        pack_tokens=4096,
        eval_tokens=8192,
        pretrain={"seconds": 150.0, "steps": 3000, "batch": 64, "rate": 4e-3},
        passes=4,
        zh_share=0.0,
        octaves=3.5,
    ),
    # For the tests.
    "test": Size(
        model={"hidden": 16, "layers": 1, "heads": 2, "intermediate": 32, "vocabulary": 300, "length": 16},
        corpora=("customer", "pydoc"),
        rows=16,
        validation=8,
        configurations=6,
        batches=(2, 4),
        ranks=(2, 4),
        rates=(1e-3, 1e0),
        pack_tokens=256,
        eval_tokens=1024,
        pretrain={"seconds": 5.0, "steps": 40, "batch": 16, "rate": 1e-2},
        passes=2,
    ),
}


def configurations(size: Size) -> list[dict[str, Any]]:
    """As many for each batch; within one, rates one a stratum of the range, ranks and warm-ups in balanced turns."""
    draw = random.Random(7)  # noqa: S311 - a design, no secret
    each = size.configurations // len(size.batches)
    made: list[dict[str, Any]] = []
    low, high = (float(np.log(r)) for r in size.rates)
    for batch in size.batches:
        ranks = [size.ranks[i % len(size.ranks)] for i in range(each)]
        warmups = [WARMUPS[i % len(WARMUPS)] for i in range(each)]
        draw.shuffle(ranks)
        draw.shuffle(warmups)
        for stratum in range(each):
            rate = float(np.exp(low + (high - low) * (stratum + draw.random()) / each))
            made.append(
                {
                    "learning_rate": float(f"{rate:.3g}"),
                    "rank": ranks[stratum],
                    "batch": batch,
                    "warmup_ratio": warmups[stratum],
                }
            )
    return made


def checkpoints(size: Size) -> list[int]:
    """Tokens at which a curve is measured: even in the logarithm, `octaves` of them, the last one the whole."""
    whole = size.rows * size.model["length"] * size.passes
    count = round(size.octaves * size.per_octave)
    return [round(whole * 2 ** (-i / size.per_octave)) for i in range(count, -1, -1)]


def packs(size: Size, table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the child trains, in order: the first ones hold every second configuration of all corpora and seeds.

    A pack holds one batch, one class of ranks (so that small ranks are not padded to large ones).
    """
    whole = checkpoints(size)[-1]
    warm_base = size.rows * size.model["length"] * WARMUP_PASSES
    middle = size.ranks[(len(size.ranks) - 1) // 2]
    groups: dict[tuple[int, int, bool], list[dict[str, Any]]] = {}
    for number, one in enumerate(table):
        for corpus in size.corpora:
            for seed in SEEDS:
                trial = {**one, "config": number, "corpus": corpus, "seed": seed}
                trial["warmup_tokens"] = one["warmup_ratio"] * warm_base
                groups.setdefault((number % 2, one["batch"], one["rank"] > middle), []).append(trial)
    made = []
    for (half, batch, wide), trials in sorted(groups.items(), key=lambda g: (g[0][0], g[0][1], g[0][2])):
        most = max(1, size.pack_tokens // (batch * size.model["length"]))
        for at in range(0, len(trials), most):
            part = trials[at : at + most]
            name = f"h{half}-b{batch}-{'wide' if wide else 'narrow'}-{at // most}"
            made.append({"id": name, "batch": batch, "tokens": whole, "checkpoints": checkpoints(size), "trials": part})
    return made + checks(size, table)


def checks(size: Size, table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Real schedules beside the averaged weights: a falling end and a cosine, at a quarter and at the whole length.

    Eight of the middle batch's configurations, their rates spread, each on two corpora.
    """
    batch = size.batches[len(size.batches) // 2]
    of = [n for n, one in enumerate(table) if one["batch"] == batch]
    chosen = of[:: max(1, len(of) // 8)][:8]
    whole, made = checkpoints(size)[-1], []
    warm_base = size.rows * size.model["length"] * WARMUP_PASSES
    for share in (4, 1):
        trials = [
            {**table[n], "config": n, "corpus": corpus, "seed": SEEDS[0], "schedule": schedule,
             "warmup_tokens": table[n]["warmup_ratio"] * warm_base}
            for schedule in ("cooldown", "cosine") for corpus in size.corpora[:2] for n in chosen
        ]  # fmt: skip
        most = max(1, size.pack_tokens // (batch * size.model["length"]))
        for at in range(0, len(trials), most):
            pack = {"batch": batch, "tokens": whole // share, "checkpoints": [whole // share]}
            made.append({"id": f"check-{share}-{at // most}", **pack, "trials": trials[at : at + most]})
    return made


def tokens(size: Size, corpora: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Byte-level BPE trained on the spot, and rows of length + 1 tokens of every text, as 16-bit numbers."""
    from tokenizers import ByteLevelBPETokenizer

    chosen = {n: corpora["corpora"][n] for n in size.corpora}
    chinese = corpora["pretrain"].get("zh", [])
    base = corpora["pretrain"]["en"] + chinese[: round(len(chinese) * size.zh_share)]
    texts = base + [t for one in chosen.values() for t in one["train"]]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=size.model["vocabulary"], special_tokens=["<|end|>"], show_progress=False
    )

    def rows(texts: list[str], most: int | None) -> np.ndarray[Any, Any]:
        wide = size.model["length"] + 1
        stream = [i for text in tokenizer.encode_batch(texts) for i in [*text.ids, 0]]
        count = len(stream) // wide if most is None else most
        if count * wide > len(stream):
            raise SystemExit(f"A corpus has {len(stream) // wide} rows, {count} are needed.")
        return np.array(stream[: count * wide], dtype=np.uint16).reshape(count, wide)

    made = {"pretrain": rows(base, None)}
    for name, one in chosen.items():
        made[f"{name}.train"] = rows(one["train"], size.rows)
        made[f"{name}.validation"] = rows(one["validation"], size.validation)
    return made


def prepare(arguments: argparse.Namespace, size: Size, work: Path) -> dict[str, Any]:
    """Writes what the child needs; the same setting again leaves what is there."""
    raw = arguments.corpora.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    table = configurations(size)
    setting = {
        **dataclasses.asdict(size),
        "sha256": digest,
        "table": table,
        "packs": packs(size, table),
        "device": arguments.device,
        "dtype": "float32" if arguments.device == "cpu" else "bfloat16",
        "eager": arguments.eager,
        "solo_rank": size.ranks[len(size.ranks) // 2],
    }
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokens.npz").exists():
        made = tokens(size, json.loads(gzip.decompress(raw)))
        np.savez_compressed(work / "tokens.npz", **made)
        print(json.dumps({"tokens": {k: list(v.shape) for k, v in made.items()}}), flush=True)
    (work / "setting.json").write_text(json.dumps(setting), encoding="utf-8")
    return setting


def unpack(parts: Path, work: Path) -> None:
    """An earlier call's parts back into files of their own."""
    (work / "packs").mkdir(parents=True, exist_ok=True)
    for name in ("base.npz", "tokens.npz"):
        if (parts / name).exists() and not (work / name).exists():
            shutil.copyfile(parts / name, work / name)
    if not (parts / "parts.npz").exists():
        return
    found: dict[str, dict[str, Any]] = {}
    with np.load(parts / "parts.npz", allow_pickle=False) as data:
        for key in data.files:
            pack, _, field = key.partition("/")
            found.setdefault(pack, {})[field] = data[key]
    for name, fields in found.items():
        path = work / (f"{name}.npz" if name in ("solo", "base-nll") else f"packs/{name}.npz")
        if not path.exists():
            np.savez_compressed(path, **fields)


def gather(work: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """Every finished pack's arrays, by `pack/field`."""
    made = {}
    files = [work / "packs" / f"{p['id']}.npz" for p in setting["packs"]]
    for file in [*files, work / "solo.npz", work / "base-nll.npz"]:
        if file.exists():
            with np.load(file, allow_pickle=False) as data:
                made |= {f"{file.stem}/{k}": data[k] for k in data.files}
    return made


def assemble(setting: dict[str, Any], parts: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The table's arrays, as docs/en/curves.md describes them."""
    table, corpora = setting["table"], list(setting["corpora"])
    points = len(setting["packs"][0]["checkpoints"])
    shape = (len(corpora), len(table), len(SEEDS), points)
    curves = {name: np.full(shape, np.nan, dtype=np.float32) for name in ("nll", "averaged", "train")}
    tokens_at = np.zeros((len(table), points), dtype=np.int32)
    for pack in setting["packs"]:
        if pack["id"].startswith("check-"):
            continue
        for row, one in enumerate(pack["trials"]):
            where = (corpora.index(one["corpus"]), one["config"], SEEDS.index(one["seed"]))
            for name, into in curves.items():
                into[where] = np.round(parts[f"{pack['id']}/{name}"][row], 4)
            tokens_at[one["config"]] = parts[f"{pack['id']}/tokens"]
    model, rows = setting["model"], setting["rows"]
    meta = {
        "version": 1,
        "model": model,
        "epoch_tokens": rows * model["length"],
        "rows": rows,
        "validation_rows": setting["validation"],
        "warmup_passes": WARMUP_PASSES,
        "passes": setting["passes"],
        "proxy": proxies(setting, parts, curves, corpora),
        "corpora_sha256": setting["sha256"],
        **about,
    }
    one = {name: np.array([c[name] for c in table]) for name in ("learning_rate", "rank", "batch", "warmup_ratio")}
    return {
        "meta": np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8),
        "corpora": np.array(corpora),
        "learning_rate": one["learning_rate"].astype(np.float64),
        "rank": one["rank"].astype(np.int16),
        "batch": one["batch"].astype(np.int16),
        "warmup_ratio": one["warmup_ratio"].astype(np.float32),
        "tokens": tokens_at,
        "base_nll": parts["base-nll/nll"],
        "step_batch": parts["solo/batch"],
        "step_seconds": parts["solo/seconds"],
        **curves,
    }


def proxies(setting: dict[str, Any], parts: dict[str, Any], curves: dict[str, Any], corpora: list[str]) -> list[Any]:
    """How near the averaged weights come to a real falling end and to a cosine, and what the raw value is off."""
    made = []
    whole = checkpoints(SIZES[setting["size"]])
    for share in (4, 1):
        at = int(np.argmin(np.abs(np.array(whole) - whole[-1] / share)))
        for schedule in ("cooldown", "cosine"):
            rows = []
            for pack in setting["packs"]:
                if not pack["id"].startswith(f"check-{share}-"):
                    continue
                for row, one in enumerate(pack["trials"]):
                    if one["schedule"] == schedule:
                        real = float(parts[f"{pack['id']}/nll"][row, -1])
                        where = (corpora.index(one["corpus"]), one["config"], 0, at)
                        rows.append((real, float(curves["averaged"][where]), float(curves["nll"][where])))
            values = np.array(rows)
            sane = values[np.isfinite(values).all(1) & (values.max(1) < 1.5 * np.nanmin(values))]
            off = np.abs(sane - sane[:, :1])
            made.append(
                {
                    "schedule": schedule, "length": 1 / share, "cells": len(values), "trained": len(sane),
                    "averaged_off": round(float(np.median(off[:, 1])), 4),
                    "raw_off": round(float(np.median(off[:, 2])), 4),
                    "averaged_bias": round(float(np.mean(sane[:, 1] - sane[:, 0])), 4),
                    "averaged_rank": ranks(sane[:, 0], sane[:, 1]), "raw_rank": ranks(sane[:, 0], sane[:, 2]),
                }
            )  # fmt: skip
    return made


def ranks(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Spearman's rank correlation."""
    return round(float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="kept between calls")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, default=None, help="an earlier call's --out, where --work is gone")
    parser.add_argument("--seconds", type=float, default=450.0)
    parser.add_argument("--size", choices=sorted(SIZES), default="gpu")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    arguments = parser.parse_args()
    begin = time.monotonic()
    size, work = SIZES[arguments.size], arguments.work
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.resume:
        unpack(arguments.resume, work)
    setting = prepare(arguments, size, work) | {"size": arguments.size}
    left = arguments.seconds - (time.monotonic() - begin) - 5.0  # five for gathering the parts
    said: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, str(CHILD), str(work), str(left)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
            said |= {k: v for k, v in json.loads(line).items() if k in ("device", "card", "torch")}
    if child.returncode not in (0, 3):
        raise SystemExit(f"The recorder's child ended with {child.returncode}.")
    parts = gather(work, setting)
    for name in ("base.npz", "tokens.npz"):
        if (work / name).exists():
            shutil.copyfile(work / name, arguments.out / name)
    np.savez_compressed(arguments.out / "parts.npz", **parts)
    missing = [p["id"] for p in setting["packs"] if f"{p['id']}/nll" not in parts]
    if missing:
        print(json.dumps({"complete": False, "packs_left": len(missing)}))
        raise SystemExit(3)
    np.savez_compressed(arguments.out / "curves.npz", **assemble(setting, parts, said))
    print(json.dumps({"complete": True, "table": str(arguments.out / "curves.npz")}))


if __name__ == "__main__":
    main()
