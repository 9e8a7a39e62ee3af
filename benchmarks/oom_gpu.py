"""Ten real out-of-memories on a CUDA device: `swift sft` children of a 0.5B model whose memory is capped.

    python benchmarks/oom_gpu.py --tokenizer FOLDER [--work FOLDER] [--limit SECONDS] [CASE …]   on the device
    python benchmarks/oom_gpu.py --tiny --tokenizer FOLDER                                       the same way on a CPU

Each case is a search of one trial through the real engine and round. The cap is torch's own limit for a process
(`set_per_process_memory_fraction`), set in the child before swift is imported; it is chosen so that a certain place of
the ladder fits by the closed form. All cases run at once on the one card, and beside them a training without a cap for
each batch (of half the micro-batch, so that all fit together), which says what the metric would have been.
With --tiny the model is the tests' own and the cap an injected
error that goes away with the micro-batch: it tries the script, not the memory.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent / "tests")]

from autoswift.domain.budget import Budget  # noqa: E402
from autoswift.domain.plan import ModelChoice, Plan, RecoverySettings  # noqa: E402
from autoswift.domain.profile import GIB, Device  # noqa: E402
from autoswift.domain.trial import Outcome, Trial  # noqa: E402
from autoswift.engines.context import EngineContext  # noqa: E402
from autoswift.engines.swift import SwiftEngine  # noqa: E402
from autoswift.recover.ladder import Situation, climb  # noqa: E402
from autoswift.recover.memory import MemoryModel  # noqa: E402
from autoswift.run.clock import RunClock  # noqa: E402
from autoswift.run.journal import RunJournal  # noqa: E402
from autoswift.search.configuration import settings_in_force  # noqa: E402
from autoswift.search.executors.local import LocalExecutor  # noqa: E402
from autoswift.search.searcher import Search  # noqa: E402
from autoswift.testing.faults import Fault, FaultyEngine  # noqa: E402
from unit.plans import make_plan  # noqa: E402

STEPS = 4
LIMIT_SECONDS = 115
"""A window of 130 s, less the model and the report."""
SPARE = 1.04
"""The cap over what the place of the ladder needs: the closed form's upper bound holds on measured cells."""
SHAPE = {"layers": 24, "hidden": 896, "heads": 14, "kv_heads": 2, "intermediate": 4864, "vocabulary": 151936,
         "head_dim": 64, "tied": True}  # fmt: skip
PARAMETERS = 494_000_000


@dataclass(frozen=True)
class Case:
    """A training, and the place of the ladder whose need is the cap."""

    name: str
    method: str
    micro: int
    batch: int
    place: dict[str, Any] = field(default_factory=dict)


HALF, QUARTER, ONE = ({"per_device_train_batch_size": n} for n in (4, 2, 1))
KEPT = {"gradient_checkpointing": True}
CASES = (
    Case("lora-8-to-4", "lora", 8, 8, HALF),
    Case("lora-8-to-2", "lora", 8, 8, QUARTER),
    Case("lora-8-to-1", "lora", 8, 8, ONE),
    Case("lora-8-to-1-recomputed", "lora", 8, 8, ONE | KEPT),
    Case("lora-4-to-2", "lora", 4, 8, QUARTER),
    Case("lora-4-to-1-recomputed", "lora", 4, 8, ONE | KEPT),
    Case("lora-6-to-3", "lora", 6, 12, {"per_device_train_batch_size": 3}),
    Case("lora-6-to-1", "lora", 6, 12, ONE),
    Case("full-8-to-2", "full", 8, 8, QUARTER),
    Case("full-4-to-1", "full", 4, 8, ONE),
)


def plan_of(case: Case, args: argparse.Namespace, model: Path) -> Plan:
    base = make_plan(trials=1)
    training = replace(
        base.training,
        method=case.method,
        precision="float32" if args.tiny else "bfloat16",
        learning_rate=1e-4 if case.method == "lora" else 1e-5,
        max_length=args.length,
        per_device_train_batch_size=case.micro,
        gradient_accumulation_steps=case.batch // case.micro,
        threads=1,
        optimizer="adamw_torch" if args.tiny else "adamw_torch_fused",
        environment={} if args.tiny else {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    )
    choice = ModelChoice(
        id="random-0.5b", source="folder", location=str(model), model_type="llama", template="chatml",
        parameters=PARAMETERS, **SHAPE,
    )  # fmt: skip
    tokens = STEPS * case.batch * args.length
    return replace(
        base,
        model=choice,
        training=training,
        search=replace(base.search, space={}, trial_tokens=tokens, tokens_per_row=float(args.length), metric="nll"),
        evaluation=replace(base.evaluation, validation_rows=4, validation_answers=False, generation_batch_size=1),
        estimate=replace(base.estimate, stage_seconds={"search": 600.0, "train": 1.0}),
        recovery=RecoverySettings(bfloat16=True),
    )


def first(plan: Plan) -> dict[str, Any]:
    return settings_in_force(plan, Trial(number=1, attempt=1, parameters={}, tokens=plan.search.trial_tokens))


def cap_of(case: Case, plan: Plan, device: Device) -> tuple[int, int]:
    """(bytes of the allocator, with the context) that the place of the ladder needs."""
    model, settings = MemoryModel(plan, device), first(plan)
    names = ["halve_micro_batch", "checkpoint_activations"]
    places = [one.changes for one in climb(names, Situation(settings=settings, recovery=plan.recovery))]
    place = next(p for p in places if all(p.get(k) == v for k, v in case.place.items()))
    estimate = model._estimate(settings | place)
    cap = int(estimate.high * SPARE)
    return cap, cap + estimate.context_bytes


def launcher(folder: Path, fraction: float) -> Path:
    """An interpreter whose share of the device is limited before swift is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    limit = f"torch.cuda.set_per_process_memory_fraction({fraction!r})" if fraction < 1 else ""
    paths = [p for p in sys.path if p and not p.startswith((str(HERE), str(HERE.parent / "tests")))]
    path.write_text(
        f"#!{sys.executable}\nimport sys, runpy\nsys.path[:0] = {paths!r}\nimport torch\n{limit}\n"
        "sys.argv = sys.argv[2:]\nrunpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


MAKE = """
import json, shutil, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
out, tokenizer = Path(sys.argv[1]), Path(sys.argv[2])
for file in tokenizer.iterdir():
    if file.is_file() and file.suffix != '.safetensors' and file.name != 'config.json':
        shutil.copy(file, out / file.name)
old = json.loads((tokenizer / 'config.json').read_text())
ids = {k: old[k] for k in ('bos_token_id', 'eos_token_id', 'pad_token_id') if old.get(k) is not None}
config = LlamaConfig(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, vocab_size=151936, max_position_embeddings=4096, tie_word_embeddings=True,
    torch_dtype='bfloat16', **ids)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
device = 'cuda' if torch.cuda.is_available() else 'cpu'
with torch.device(device):
    model = LlamaForCausalLM(config)
model.save_pretrained(out)
"""


def make_model(work: Path, tokenizer: Path) -> Path:
    out = work / "model"
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "config.json").exists():
        subprocess.run([sys.executable, "-c", MAKE, str(out), str(tokenizer)], check=True, timeout=90)
    return out


def write_rows(work: Path, length: int) -> tuple[Path, Path]:
    """Rows of about so many tokens each: random words of the tokenizer are not needed, lengths are."""
    words = "the model reads a row of ordinary words and learns to say the next one "
    rows = []
    for n in range(64):
        answer = f"{n} " + words * max(1, (length - 60) // 15)
        rows.append({"messages": [{"role": "user", "content": f"row {n}"}, {"role": "assistant", "content": answer}]})
    train, validation = work / "train.jsonl", work / "validation.jsonl"
    train.write_text("".join(json.dumps(r) + "\n" for r in rows[:60]), encoding="utf-8")
    validation.write_text("".join(json.dumps(r) + "\n" for r in rows[60:]), encoding="utf-8")
    return train, validation


class Runner:
    """All cases at once, each in a thread of its own."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.model = args.tokenizer if args.tiny else make_model(work, args.tokenizer)
        self.rows = write_rows(work, args.length)
        self.device, self.total = (Device(kind="cpu", name="cpu"), 0) if args.tiny else card()
        self.found: dict[str, tuple[Outcome, RunJournal, Plan, float]] = {}
        self.begin = time.monotonic()

    def run(self, case: Case, *, capped: bool) -> None:
        name = case.name if capped else f"free-{case.method}-{case.micro}-{case.batch}"
        folder, plan = self.work / name, plan_of(case, self.args, self.model)
        cap, room = (0, 80 * GIB) if self.args.tiny or not capped else cap_of(case, plan, self.device)
        plan = replace(plan, estimate=replace(plan.estimate, memory_limit_bytes=room))
        fraction = cap / self.total if cap else 1.0
        python = Path(sys.executable) if self.args.tiny else launcher(folder / "bin", fraction)
        context = EngineContext(
            folder=folder, model=self.model, python=python, train=self.rows[0], validation=self.rows[1],
            references=(), score=lambda answers, references: {},
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        engine: Any = SwiftEngine(context)
        if self.args.tiny and capped:
            limit = {"per_device_train_batch_size": case.place["per_device_train_batch_size"]}
            engine = FaultyEngine(engine, [Fault(kind="out_of_memory", attempt=None, unless=limit)])
        journal = RunJournal(folder)
        budget = Budget(trials=1, hours=max(self.args.limit, 60) / 3600 + 0.02)
        begin = time.monotonic()
        executor = LocalExecutor(self.device, RunClock(budget), "en")
        outcome = executor.run(Search(plan), engine, plan, budget, journal).outcomes[1]
        self.found[name] = outcome, journal, plan, cap / GIB
        print(f"{time.monotonic() - self.begin:6.1f} s  {name}: {outcome.status} after "
              f"{time.monotonic() - begin:.0f} s, cap {cap / GIB:.2f} GiB", flush=True)  # fmt: skip

    def guarded(self, case: Case, *, capped: bool) -> None:
        try:
            self.run(case, capped=capped)
        except Exception as exc:  # one case must not take the others' figures along
            print(f"{case.name}: {type(exc).__name__}: {getattr(exc, 'what', exc)}", flush=True)

    def all(self, cases: list[Case]) -> None:
        frees = list({(c.method, c.batch): c for c in cases}.values())
        todo = [(c, True) for c in cases] + [(replace(c, micro=max(1, c.micro // 2)), False) for c in frees]
        together = 1 if self.args.tiny else len(todo)
        gate = threading.Semaphore(together)

        def one(case: Case, capped: bool) -> None:
            with gate:
                self.guarded(case, capped=capped)

        threads = [threading.Thread(target=one, args=pair, daemon=True) for pair in todo]
        for thread in threads:
            thread.start()
        end = time.monotonic() + self.args.limit
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def card() -> tuple[Device, int]:
    words = "import torch; p = torch.cuda.get_device_properties(0); print(p.name, p.total_memory, sep='|')"
    said = subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True, timeout=60).stdout
    name, total = said.strip().split("|")
    return Device(kind="cuda", name=name, memory_bytes=int(total), free_bytes=int(total), bf16=True), int(total)


def batch_of(one: dict[str, Any]) -> int:
    return int(one["per_device_train_batch_size"]) * int(one["gradient_accumulation_steps"])


def report(runner: Runner, cases: list[Case]) -> None:
    free = {(p.training.method, p.training.effective_batch_size): o.metrics.get("nll")
            for name, (o, _, p, _) in runner.found.items() if name.startswith("free-")}  # fmt: skip
    head = ("case", "cap GiB", "status", "attempts", "micro", "checkpointing", "batch", "nll", "free nll", "wasted s")
    print(("{:24}" + " {:>11}" * 9).format(*head))
    good = 0
    for case in cases:
        if case.name not in runner.found:
            print(f"{case.name:24} not done within {runner.args.limit} s")
            continue
        outcome, journal, plan, cap = runner.found[case.name]
        starts = [r for r in journal.trials() if r["event"] == "started"]
        seen = [settings_in_force(plan, Trial(number=1, attempt=r["attempt"], parameters={}, tokens=r["tokens"],
                                              overrides=r["overrides"])) for r in starts]  # fmt: skip
        wasted = sum(e.get("wasted_device_seconds", 0.0) for e in journal.events() if e["kind"] == "symptom")
        nll, plain = outcome.metrics.get("nll"), free.get((case.method, case.batch))
        same = {batch_of(one) for one in seen} == {case.batch}
        near = nll is not None and plain is not None and math.isclose(nll, plain, rel_tol=0.01)
        good += outcome.status == "finished" and len(seen) <= 3 and same and near
        micro = "→".join(str(one["per_device_train_batch_size"]) for one in seen)
        values = (f"{cap:.2f}", outcome.status, len(seen), micro, str(seen[-1]["gradient_checkpointing"]),
                  "equal" if same else "CHANGED", f"{nll:.4f}" if nll else "-", f"{plain:.4f}" if plain else "-",
                  f"{wasted:.0f}")  # fmt: skip
        print(("{:24}" + " {:>11}" * 9).format(case.name, *values))
        for event in journal.events():
            if event["kind"] == "symptom":
                print(f"    {event['symptom']} ({event.get('phase')}): {str(event['evidence'])[:150]}")
    print(
        f"{good} of {len(cases)}: finished within 3 attempts, equal batch, nll within 1 % of the training without cap"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with a tokenizer; with --tiny the model")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS)
    parser.add_argument("--length", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.length = args.length or (64 if args.tiny else 384)  # all at once stay under the card
    cases = [c for c in CASES if not args.cases or c.name in args.cases]
    work = args.work or Path(tempfile.mkdtemp(prefix="oom-"))
    begin = time.monotonic()
    runner = Runner(args, work)
    print(f"ready after {time.monotonic() - begin:.1f} s: {runner.device.name}", flush=True)
    runner.all(cases)
    report(runner, cases)
    print(f"{time.monotonic() - begin:.0f} s in all", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
