"""Writes the figures of a finished run between the demo markers of both READMEs: `python scripts/demo_figures.py RUN`.

The machine and the date are read from the run's record, so that the README can only say what was measured.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from autoswift.run.record import RunRecord, find

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"

WORDS = {
    "README.md": {
        "head": "`make demo` on {cpu}, {cores} cores, no GPU, no hub, {date} ({minutes} after installation):",
        "columns": ("", "base", "tuned", "difference (95 % interval)"),
        "chrf": "chrF on {rows} test dialogues (higher is better)",
        "nll": "negative log-likelihood a token (lower is better)",
        "stopped": "answers that end by themselves",
        "trained": "{trials} trials of {trial_tokens:,} tokens, then {final_tokens:,} for the winner; "
        "{device_seconds:.0f} device-seconds.",
        "load": "Served by llama.cpp as {form}: {one:.0f} tokens/s for one request, TTFT p50 {ttft:.0f} ms; "
        "{many:.0f} tokens/s for {parallel}.",
        "note": "SmolLM2-135M is an English model of 135 million weights: it learns the shop's style, not good "
        "Chinese. With a hub in reach the plan takes a larger one that speaks it.",
    },
    "README.zh.md": {
        "head": "`make demo`，{cpu}，{cores} 核，无 GPU、无模型仓库，{date}（安装之后 {minutes}）：",
        "columns": ("", "基座", "微调后", "差值（95% 区间）"),
        "chrf": "{rows} 条测试对话上的 chrF（越高越好）",
        "nll": "每 token 负对数似然（越低越好）",
        "stopped": "自行结束的回答比例",
        "trained": "{trials} 次试验各 {trial_tokens:,} 个 token，胜出者再训 {final_tokens:,} 个；"
        "共 {device_seconds:.0f} 设备秒。",
        "load": "llama.cpp 以 {form} 部署：单请求 {one:.0f} token/s，TTFT p50 {ttft:.0f} 毫秒；"
        "{parallel} 并发 {many:.0f} token/s。",
        "note": "SmolLM2-135M 是 1.35 亿参数的英文模型：它学会的是店铺的口吻，不是流利的中文。"
        "连得上模型仓库时，计划会选更大的中文模型。",
    },
}


def minutes(seconds: float) -> str:
    """Minutes and seconds, without words."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def cell(name: str, score: dict[str, Any], sign: bool = False) -> str:
    """A figure, with its interval when it is a difference."""
    unit = {"chrf": ".2f", "nll": ".3f", "stopped": ".0%"}[name]
    text = format(score["value"], ("+" if sign else "") + unit)
    return f"{text} ({score['low']:+{unit}} … {score['high']:+{unit}})" if sign else text


def table(record: RunRecord, words: dict[str, Any]) -> str:
    """The lines between the markers."""
    plan = record.plan()
    if plan is None:
        raise SystemExit("The run has no plan.")
    hardware = record.value("hardware")["hardware"]
    tested, levels = record.value("evaluate"), record.value("loadtest")["levels"]
    events = record.journal.events()
    trials = [r for r in record.journal.trials() if r["event"] == "ended"]
    lines = [
        words["head"].format(
            cpu=hardware["cpu_name"],
            cores=hardware["cpu_cores"],
            date=time.strftime("%Y-%m-%d", time.gmtime(events[0]["time"])),
            minutes=minutes(events[-1]["time"] - events[0]["time"]),
        ),
        "",
        "| " + " | ".join(words["columns"]) + " |",
        "| --- | --- | --- | --- |",
    ]
    for name in ("chrf", "nll", "stopped"):
        row = [words[name].format(rows=tested["rows"])]
        row += [cell(name, tested[which]["scores"][name]) for which in ("base", "tuned")]
        lines.append("| " + " | ".join([*row, cell(name, tested["difference"][name], sign=True)]) + " |")
    trained = words["trained"].format(
        trials=plan.search.trials,
        trial_tokens=plan.search.trial_tokens,
        final_tokens=plan.search.final_tokens,
        device_seconds=sum(r["outcome"]["device_seconds"] for r in trials),
    )
    load = words["load"].format(
        form=plan.serving.format,
        one=levels[0]["output_tokens_per_second"],
        ttft=levels[0]["ttft_ms"]["p50"],
        many=levels[-1]["output_tokens_per_second"],
        parallel=levels[-1]["parallel"],
    )
    return "\n".join([*lines, "", f"{trained} {load} {words['note']}"])


def main(run: str) -> None:
    """Fills both files in."""
    record = find(run)
    for name, words in WORDS.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        new = re.sub(f"{BEGIN}.*{END}", lambda _, w=words: f"{BEGIN}\n{table(record, w)}\n{END}", text, flags=re.DOTALL)
        path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
