"""Pre-trains a small base and fine-tunes hundreds of LoRA adapters on it at once. torch and numpy only.

`python curves.py FOLDER SECONDS`. FOLDER holds `setting.json` and `tokens.npz` (from `record_curves.py`); this writes
`base.npz`, then a `packs/<id>.npz` for each pack of the setting that is not there yet, until SECONDS are over (exit 3
when packs are left). Adapters are stacked, `A[K, in, r]` and `B[K, r, out]`: one forward and one backward pass serve K
trials, each with its own rows, rate, rank, clip and Adam moments. They share nothing: a trial that diverges leaves the
others as they are.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

MAPS = ("q", "k", "v", "o", "gate", "up", "down")
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
MAX_GRAD_NORM = 1.0
SCALE = 2.0
"""alpha / rank, as everywhere in this project."""
POWER = 8.0
"""Weights of the average grow as step^8: their mean age is a tenth of the run, that of its last 20 % taken evenly."""

Tensor = torch.Tensor


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def sizes(model: dict[str, int]) -> dict[str, tuple[int, int]]:
    d, m = model["hidden"], model["intermediate"]
    return {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "gate": (d, m), "up": (d, m), "down": (m, d)}


def fresh(model: dict[str, int], seed: int) -> dict[str, Tensor]:
    """Weights as GPT-2 and Llama begin: normal, 0.02, the maps into the residual stream smaller with depth."""
    made = torch.Generator().manual_seed(seed)
    weights = {"embed": torch.randn(model["vocabulary"], model["hidden"], generator=made) * 0.02}
    for layer in range(model["layers"]):
        for name, (i, o) in sizes(model).items():
            std = 0.02 / math.sqrt(2 * model["layers"]) if name in ("o", "down") else 1 / math.sqrt(i)
            weights[f"{layer}.{name}"] = torch.randn(i, o, generator=made) * std
        weights[f"{layer}.norm1"] = torch.ones(model["hidden"])
        weights[f"{layer}.norm2"] = torch.ones(model["hidden"])
    weights["norm"] = torch.ones(model["hidden"])
    return weights


class Adapters:
    """K stacked LoRA adapters whose parameters, gradients and moments are rows of flat tensors.

    Args:
        seeds: of each trial's A; one seed gives the same A to every trial that has it.
        ranks: columns of A beyond a trial's rank are zero, and stay zero since B is.
    """

    def __init__(self, model: dict[str, int], seeds: list[int], ranks: list[int], device: str) -> None:
        self.k, self.width = len(seeds), max(ranks)
        shapes: list[tuple[str, int, int]] = []
        for layer in range(model["layers"]):
            for name, (i, o) in sizes(model).items():
                shapes += [(f"{layer}.{name}.a", i, self.width), (f"{layer}.{name}.b", self.width, o)]
        total = sum(i * o for _, i, o in shapes)
        self.flat = torch.zeros(self.k, total, device=device)
        self.grad = torch.zeros_like(self.flat)
        self.m, self.v, self.average = (torch.zeros_like(self.flat) for _ in range(3))
        self.leaf: dict[str, Tensor] = {}
        at = 0
        keep = (torch.arange(self.width)[None, :] < torch.tensor(ranks)[:, None]).float()
        draws = {seed: torch.Generator().manual_seed(seed) for seed in sorted(set(seeds))}
        for name, i, o in shapes:
            view = self.flat[:, at : at + i * o].view(self.k, i, o)
            if name.endswith(".a"):  # uniform within 1/sqrt(in), as PEFT begins
                drawn = {s: (torch.rand(i, 64, generator=g) * 2 - 1)[:, :o] / math.sqrt(i) for s, g in draws.items()}
                view.copy_(torch.stack([drawn[s] for s in seeds]) * keep[:, None, :])
            leaf = view.detach().requires_grad_()
            leaf.grad = self.grad[:, at : at + i * o].view(self.k, i, o)
            self.leaf[name] = leaf
            at += i * o
        self.average.copy_(self.flat)

    def step(self, rate: Tensor, one: Tensor, two: Tensor, weight: Tensor) -> None:
        """AdamW without decay; `one`, `two` are the bias corrections, `weight` that of the newest in the average."""
        norm = self.grad.square().sum(1, keepdim=True).sqrt()
        self.grad.mul_((MAX_GRAD_NORM / (norm + 1e-6)).clamp(max=1.0))
        self.m.lerp_(self.grad, 1 - BETA1)
        self.v.mul_(BETA2).addcmul_(self.grad, self.grad, value=1 - BETA2)
        self.flat.sub_(rate[:, None] * (self.m / one) / ((self.v / two).sqrt() + EPS))
        self.average.add_((self.flat - self.average) * weight)
        self.grad.zero_()


class Net:
    """Llama's block: RMSNorm, rotary positions, SwiGLU, tied embedding."""

    def __init__(self, model: dict[str, int], weights: dict[str, Tensor], device: str, dtype: torch.dtype) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.weights = {k: v.to(device=device, dtype=dtype) for k, v in weights.items()}
        half = model["hidden"] // model["heads"] // 2
        angle = torch.arange(model["length"])[:, None] / 10000 ** (torch.arange(half)[None, :] / half)
        self.cos, self.sin = (f(angle).to(device=device, dtype=dtype) for f in (torch.cos, torch.sin))

    def losses(self, ids: Tensor, adapters: Adapters | None) -> Tensor:
        """Mean negative log-likelihood of each trial. ids: (K, rows, length + 1)."""
        k, rows, long = ids.shape
        length, d, heads = long - 1, self.model["hidden"], self.model["heads"]
        w = self.weights
        x = w["embed"][ids[:, :, :-1].reshape(-1)].view(k, rows * length, d)

        def linear(x: Tensor, name: str) -> Tensor:
            y = x @ w[name]
            if adapters is None:
                return y
            a, b = (adapters.leaf[f"{name}.{part}"].to(self.dtype) for part in "ab")
            return torch.baddbmm(y, torch.bmm(x, a), b, alpha=SCALE)

        def turned(x: Tensor) -> Tensor:
            x = x.view(k * rows, length, heads, d // heads).transpose(1, 2)
            left, right = x.chunk(2, -1)
            return torch.cat((left * self.cos - right * self.sin, right * self.cos + left * self.sin), -1)

        for layer in range(self.model["layers"]):
            h = F.rms_norm(x, (d,), w[f"{layer}.norm1"], 1e-5)
            q, key, v = (linear(h, f"{layer}.{n}") for n in "qkv")
            v = v.view(k * rows, length, heads, d // heads).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(turned(q), turned(key), v, is_causal=True)
            x = x + linear(mixed.transpose(1, 2).reshape(k, rows * length, d), f"{layer}.o")
            h = F.rms_norm(x, (d,), w[f"{layer}.norm2"], 1e-5)
            x = x + linear(F.silu(linear(h, f"{layer}.gate")) * linear(h, f"{layer}.up"), f"{layer}.down")
        logits = (F.rms_norm(x, (d,), w["norm"], 1e-5) @ w["embed"].T).float()
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), ids[:, :, 1:].reshape(-1), reduction="none")
        return loss.view(k, -1).mean(1)


class Recorder:
    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.end = folder, time.monotonic() + seconds
        self.setting = json.loads((folder / "setting.json").read_text(encoding="utf-8"))
        self.model = self.setting["model"]
        self.device = self.setting["device"]
        self.dtype = getattr(torch, self.setting["dtype"])
        data = np.load(folder / "tokens.npz", allow_pickle=False)
        self.data = {k: torch.from_numpy(data[k].astype(np.int64)).to(self.device) for k in data.files}
        self.rate = 0.0  # tokens a second, of the packs so far

    def run(self) -> int:
        say(device=self.device, torch=torch.__version__, threads=torch.get_num_threads(), card=card(self.device))
        net = Net(self.model, self.base(), self.device, self.dtype)
        self.bases(net)
        self.solo(net)
        (self.folder / "packs").mkdir(exist_ok=True)
        packs = self.setting["packs"]
        left = [p for p in packs if not self.file(p).exists()]
        for number, pack in enumerate(left):
            work = len(pack["trials"]) * pack["tokens"]
            guess = 1.3 * work / self.rate if self.rate else 0.0
            if time.monotonic() + guess > self.end:
                say(left=len(left) - number, of=len(packs), reason="time")
                return 3
            begin = time.monotonic()
            result = Pack(self, net, pack).run()
            if result is None:
                say(left=len(left) - number, of=len(packs), reason="time, within a pack")
                return 3
            save(self.file(pack), result)
            if self.device != "cpu":
                torch.cuda.empty_cache()  # a graph's own pool is given back only so
            seconds = time.monotonic() - begin
            self.rate = work / seconds
            ended = np.isfinite(result["nll"][:, -1]).sum()
            best = np.nanmin(result["nll"]) if ended else None
            say(pack=pack["id"], done=len(packs) - len(left) + number + 1, of=len(packs), trials=len(pack["trials"]),
                seconds=round(seconds, 1), tokens_per_second=round(self.rate), finite=int(ended),
                best=round(float(best), 4) if best is not None else None)  # fmt: skip
        return 0

    def file(self, pack: dict[str, Any]) -> Path:
        return self.folder / "packs" / f"{pack['id']}.npz"

    def base(self) -> dict[str, Tensor]:
        """The pre-trained weights, made first where they are not there."""
        path = self.folder / "base.npz"
        if not path.exists():
            weights = self.pretrain(fresh(self.model, 1))
            save(path, {k: v.half().cpu().numpy() for k, v in weights.items()})
        data = np.load(path, allow_pickle=False)
        return {k: torch.from_numpy(data[k]).float() for k in data.files}

    def pretrain(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """AdamW on the pre-training text for a bounded time: warm-up, then the rate falls linearly with the time."""
        setting = self.setting["pretrain"]
        net = Net(self.model, weights, self.device, torch.float32)
        leaves = [v.requires_grad_() for v in net.weights.values()]
        optimizer = torch.optim.AdamW(leaves, lr=setting["rate"], betas=(0.9, 0.95), weight_decay=0.05)
        rows = self.data["pretrain"]
        generator = torch.Generator().manual_seed(2)
        begin, step, recent = time.monotonic(), 0, 0.0
        while (done := (time.monotonic() - begin) / setting["seconds"]) < 1 and step < setting["steps"]:
            done = max(done, step / setting["steps"])
            for group in optimizer.param_groups:
                group["lr"] = setting["rate"] * min(1.0, (step + 1) / 100) * max(0.02, 1 - done)
            picked = rows[torch.randint(0, len(rows), (setting["batch"],), generator=generator).to(self.device)]
            with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
                loss = net.losses(picked[None], None).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(leaves, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recent = float(loss.detach()) if step % 50 == 0 else recent
            if step % 500 == 0:
                say(pretrain=step, loss=round(recent, 4), seconds=round(time.monotonic() - begin, 1))
            step += 1
        say(pretrained=step, tokens=step * setting["batch"] * self.model["length"], loss=round(recent, 4))
        return {k: v.detach() for k, v in net.weights.items()}

    def bases(self, net: Net) -> None:
        """The base's own likelihood on each corpus: step 0 of every curve."""
        found = {}
        with torch.inference_mode():
            for name in self.setting["corpora"]:
                found[name] = float(net.losses(self.data[f"{name}.validation"][None], None))
        save(self.folder / "base-nll.npz", {"nll": np.array([found[n] for n in self.setting["corpora"]])})
        say(base_nll={k: round(v, 4) for k, v in found.items()})

    def solo(self, net: Net) -> None:
        """Seconds of a step of one trial alone, by batch: median of some steps after a warm-up.

        On a CPU, seconds of that CPU, which neighbours do not change.
        """
        now = time.process_time if self.device == "cpu" else time.perf_counter
        path = self.folder / "solo.npz"
        if path.exists():
            return
        seconds = []
        name = self.setting["corpora"][0]
        for batch in self.setting["batches"]:
            adapters = Adapters(self.model, [1], [self.setting["solo_rank"]], self.device)
            ids = self.data[f"{name}.train"][:batch][None]
            times = []
            for _ in range(15):
                wait(self.device)
                begin = now()
                net.losses(ids, adapters).sum().backward()
                step(adapters, torch.full((1,), 1e-6, device=self.device), 1)
                wait(self.device)
                times.append(now() - begin)
            seconds.append(sorted(times[5:])[5])
        save(path, {"batch": np.array(self.setting["batches"]), "seconds": np.array(seconds)})
        say(solo_step_seconds={str(b): round(s, 5) for b, s in zip(self.setting["batches"], seconds, strict=True)})


def step(adapters: Adapters, rate: Tensor, number: int) -> None:
    """Step `number` (from 1) with its bias corrections."""
    made = [1 - BETA1**number, 1 - BETA2**number, 1 - (1 - 1 / number) ** (POWER + 1)]
    one, two, weight = torch.tensor(made, device=adapters.flat.device)
    adapters.step(rate, one, two, weight)


class Pack:
    """Trials of one batch size and one length, side by side."""

    def __init__(self, owner: Recorder, net: Net, pack: dict[str, Any]) -> None:
        self.owner, self.net, self.pack = owner, net, pack
        self.trials = pack["trials"]
        self.batch, length = pack["batch"], owner.model["length"]
        self.steps = max(1, round(pack["tokens"] / (self.batch * length)))
        marks = [max(1, round(t / (self.batch * length))) for t in pack["checkpoints"]]
        self.marks = [min(m, self.steps) for m in marks]

    def orders(self) -> Tensor:
        """Row numbers (K, steps, batch): each epoch its own permutation, by seed and corpus."""
        made: dict[tuple[str, int], Tensor] = {}
        for one in self.trials:
            key = (one["corpus"], one["seed"])
            if key not in made:
                rows = len(self.owner.data[f"{key[0]}.train"])
                generator = torch.Generator().manual_seed(1000 + key[1])
                passes = math.ceil(self.steps * self.batch / rows)
                whole = torch.cat([torch.randperm(rows, generator=generator) for _ in range(passes)])
                made[key] = whole[: self.steps * self.batch].view(self.steps, self.batch)
        return torch.stack([made[(one["corpus"], one["seed"])] for one in self.trials]).to(self.owner.device)

    def rates(self) -> Tensor:
        """Learning rate (steps, K): linear warm-up, then constant, or falling at the end where the trial says so."""
        at = torch.arange(1, self.steps + 1, dtype=torch.float64)[:, None]
        warm = torch.tensor([t["warmup_tokens"] for t in self.trials]) / (self.batch * self.owner.model["length"])
        shape = torch.minimum(torch.ones(1), at / warm.clamp(min=1.0)[None])
        left = (self.steps - at + 1) / self.steps
        for column, one in enumerate(self.trials):
            if one.get("schedule") == "cooldown":
                shape[:, column] *= torch.minimum(torch.ones(1), left[:, 0] / 0.2)
            elif one.get("schedule") == "cosine":
                shape[:, column] *= 0.5 * (1 + torch.cos(math.pi * (1 - left[:, 0])))
        rate = torch.tensor([t["learning_rate"] for t in self.trials], dtype=torch.float64)
        return (shape * rate[None]).float().to(self.owner.device)

    def run(self) -> dict[str, np.ndarray[Any, Any]] | None:
        device = self.owner.device
        seeds, ranks = [t["seed"] for t in self.trials], [t["rank"] for t in self.trials]
        adapters = Adapters(self.owner.model, seeds, ranks, device)
        orders, rates = self.orders(), self.rates()
        names = sorted({t["corpus"] for t in self.trials})
        # All corpora in one tensor, so that one gather fetches the rows of every trial.
        begins, at = {}, 0
        for name in names:
            begins[name], at = at, at + len(self.owner.data[f"{name}.train"])
        rows = torch.cat([self.owner.data[f"{n}.train"] for n in names])
        orders += torch.tensor([begins[t["corpus"]] for t in self.trials], device=device)[:, None, None]
        moved = self.stepper(adapters, rows)
        nll, averaged, train = [], [], []
        since, count = torch.zeros(len(self.trials), device=device), 0
        for number in range(1, self.steps + 1):
            since += moved(orders[:, number - 1], rates[number - 1], number)
            count += 1
            if number % 64 == 0 and time.monotonic() > self.owner.end:
                return None
            for _ in range(self.marks.count(number)):
                if count:
                    train.append((since / count).cpu().numpy())
                    since, count = torch.zeros_like(since), 0
                else:  # two checkpoints that round to the same step
                    train.append(train[-1])
                nll.append(self.validate(adapters))
                averaged.append(self.validate(adapters, average=True))
        tokens = np.array(sorted(self.marks)) * self.batch * self.owner.model["length"]
        return {
            "nll": np.stack(nll, 1),
            "averaged": np.stack(averaged, 1),
            "train": np.stack(train, 1),
            "tokens": tokens,
        }

    def stepper(self, adapters: Adapters, rows: Tensor) -> Any:
        """A function that does one step and returns the trials' losses; a replayed graph on a GPU."""
        device = self.owner.device
        ids = torch.zeros(len(self.trials), self.batch, dtype=torch.long, device=device)
        rate = torch.zeros(len(self.trials), device=device)
        numbers = torch.ones(3, device=device)

        def body() -> Tensor:
            losses = self.net.losses(rows[ids], adapters)
            losses.sum().backward()
            adapters.step(rate, numbers[0], numbers[1], numbers[2])
            return losses.detach()

        def load(order: Tensor, now: Tensor, number: int) -> None:
            made = [1 - BETA1**number, 1 - BETA2**number, 1 - (1 - 1 / number) ** (POWER + 1)]
            ids.copy_(order)
            rate.copy_(now)
            numbers.copy_(torch.tensor(made))

        if device == "cpu" or self.owner.setting.get("eager"):

            def eager(order: Tensor, now: Tensor, number: int) -> Tensor:
                load(order, now, number)
                return body()

            return eager
        try:
            graph, out = captured(body, adapters)
        except RuntimeError as error:
            say(warning=f"no CUDA graph, steps are launched one by one: {str(error)[:200]}")
            self.owner.setting["eager"] = True
            return self.stepper(adapters, rows)

        def replayed(order: Tensor, now: Tensor, number: int) -> Tensor:
            load(order, now, number)
            graph.replay()
            return out

        return replayed

    @torch.no_grad()
    def validate(self, adapters: Adapters, average: bool = False) -> np.ndarray[Any, Any]:
        """Validation likelihood of each trial, NaN where it is not finite; a few rows at a time for the memory."""
        if average:
            kept = adapters.flat.clone()
            adapters.flat.copy_(adapters.average)
        rows = torch.stack([self.owner.data[f"{t['corpus']}.validation"] for t in self.trials])
        chunk = max(1, self.owner.setting["eval_tokens"] // (len(self.trials) * self.owner.model["length"]))
        parts = rows.split(chunk, 1)
        total = sum(self.net.losses(p, adapters) * p.shape[1] for p in parts) / rows.shape[1]
        if average:
            adapters.flat.copy_(kept)
        found = torch.as_tensor(total).float().cpu().numpy()
        return np.where(np.isfinite(found), found, np.nan)


def captured(body: Any, adapters: Adapters) -> tuple[Any, Tensor]:
    """Warms up on a side stream, captures one step, and puts the adapters back to where they began."""
    state = (adapters.flat, adapters.m, adapters.v, adapters.average)
    kept = [t.clone() for t in state]
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                body()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = body()
        return graph, out
    finally:
        for tensor, old in zip(state, kept, strict=True):
            tensor.copy_(old)
        adapters.grad.zero_()


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def card(device: str) -> str:
    return torch.cuda.get_device_name() if device != "cpu" else "cpu"


def save(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Whole or not at all."""
    with path.with_suffix(".part").open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    os.replace(path.with_suffix(".part"), path)


def main() -> None:
    if os.environ.get("CURVES_THREADS"):
        torch.set_num_threads(int(os.environ["CURVES_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = True
    warnings.filterwarnings("ignore", message="grad and param do not obey")  # views of one flat tensor, on purpose
    sys.exit(Recorder(Path(sys.argv[1]), float(sys.argv[2])).run())


if __name__ == "__main__":
    main()
