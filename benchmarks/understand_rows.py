"""A million short rows profiled, cleaned and divided: seconds, memory, and whether near-duplicates stay together.

    .venv/bin/python benchmarks/understand_rows.py [--rows 1000000] [--helpers N] [--keep FOLDER]

The rows are dialogues in Chinese and English, made from a seed. One in fifty is planted beside another row as its
near-duplicate (a word exchanged, a mark added), one in a hundred as its exact copy. Prints a line of JSON. The bounds
that the project keeps for a million rows on two cores: four minutes, 1.5 GiB for this process and its children.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

BOUND_SECONDS, BOUND_GIB = 240.0, 1.5
NEAR, COPY = 50, 100
ZH = {
    "thing": "羽绒服 连衣裙 台灯 破壁机 电饭煲 耳机 键盘 行李箱 跑步鞋 保温杯 窗帘 书架 儿童车 望远镜 净水器 吹风机",
    "wrong": "拉链坏了 掉色严重 少了一个零件 尺码偏小 收到时已经破损 充不进电 声音很大 一直没有发货 味道刺鼻",
    "ask": "请问怎么退货 可以换一件吗 能不能补发 要多久才能修好 运费由谁承担 发票在哪里下载 可以改地址吗",
    "sorry": "非常抱歉给您带来不便 您好很高兴为您服务 感谢您的耐心等待 我马上为您查询 已经收到您的反馈",
    "do": "请在订单页面点击申请售后 请把照片发给我们核实 我们会在两天之内给您答复 请提供一下订单编号",
    "end": "如有其他问题请随时联系我们 祝您生活愉快 运费由本店承担 退款将原路返回 修好之后会尽快寄回",
}
EN = {
    "thing": "jacket|kettle|keyboard|suitcase|lamp|blender|headset|curtain|bookshelf|telescope|stroller|thermos",
    "wrong": "arrived broken|is the wrong size|lost its colour|does not charge|makes a loud noise|misses a part",
    "ask": "How do I return it?|Can I have another one?|Who pays for the postage?|When will it be repaired?",
    "sorry": "I am very sorry about that.|Thank you for your patience.|Let me look into it right away.",
    "do": "Please open your order and choose a return.|Please send us a photo of it.|Keep the box, please.",
    "end": "The refund goes to your card.|We answer within two days.|Have a pleasant day.|Postage is on us.",
}


def words(random_: random.Random, chinese: bool) -> str:
    """A few invented words, which make a row unlike the others."""
    if chinese:
        return "".join(chr(random_.randrange(0x4E00, 0x9000)) for _ in range(24))
    return " ".join("".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=random_.randrange(3, 9))) for _ in range(9))


def row(random_: random.Random) -> tuple[str, str]:
    chinese = random_.random() < 0.6
    said = {
        name: random_.choice(some.split(None if chinese else "|")) for name, some in (ZH if chinese else EN).items()
    }
    more = words(random_, chinese)
    if chinese:
        user = f"我上周买的{said['thing']}{said['wrong']}，{more[:12]}，{said['ask']}？"
        return user, f"{said['sorry']}，{said['do']}，{more[12:]}，{said['end']}。"
    half = len(more) // 2
    user = f"The {said['thing']} that I bought {said['wrong']}, {more[:half]}. {said['ask']}"
    return user, f"{said['sorry']} {said['do']} {more[half:]}. {said['end']}"


def rows(count: int, seed: int) -> Iterator[tuple[str, str, int]]:
    """Rows with the number of the row that each was made from."""
    random_ = random.Random(seed)  # noqa: S311 (rows, not secrets)
    kept: list[tuple[str, str, int]] = []
    for number in range(count):
        origin = number
        if kept and random_.randrange(NEAR) == 0:
            user, assistant, origin = random_.choice(kept)
            user = user.replace("上周", "昨天").replace("The ", "That ") + random_.choice("!！~?")
        elif kept and random_.randrange(COPY) == 0:
            user, assistant, origin = random_.choice(kept)
        else:
            user, assistant = row(random_)
            if random_.randrange(200) == 0:
                user += f" 1{random_.randrange(3, 10)}{random_.randrange(10**9):09}"
            if random_.randrange(300) == 0:
                assistant += "<br>&nbsp;"
            one = (user, assistant, origin)
            if len(kept) < 50_000:
                kept.append(one)
            elif random_.randrange(20) == 0:
                kept[random_.randrange(len(kept))] = one
        yield user, assistant, origin


def make(path: Path, count: int, seed: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for user, assistant, origin in rows(count, seed):
            turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
            file.write(json.dumps({"id": origin, "messages": turns}, ensure_ascii=False) + "\n")


def memory_of(pid: int) -> int:
    """Bytes in use by a process and all that it started."""
    import psutil

    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in tree:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def leaks(data: Path, out: Path) -> tuple[int, int]:
    """Planted families that stand in more than one split, and the families with more than one row kept."""
    place: dict[str, str] = {}
    for name in ("train", "validation", "test"):
        with (out / f"{name}.jsonl").open(encoding="utf-8") as file:
            for line in file:
                turns = json.loads(line)["messages"]
                place["".join(t["content"] for t in turns)] = name
    families: dict[int, list[str]] = {}
    with data.open(encoding="utf-8") as file:
        for line in file:
            value = json.loads(line)
            text = "".join(t["content"].replace("<br>&nbsp;", "") for t in value["messages"])
            if text in place:
                families.setdefault(value["id"], []).append(place[text])
    several = [set(some) for some in families.values() if len(some) > 1]
    return sum(len(some) > 1 for some in several), len(several)


CHILD = """
import sys, json
from pathlib import Path
from autoswift.understand.data import Options, prepare_data
helpers = int(sys.argv[3])
found = prepare_data(sys.argv[1], Path(sys.argv[2]), Options(helpers=None if helpers < 0 else helpers))
profile = found.profile
print(json.dumps({"splits": profile.splits, "removed": profile.removed, "near": profile.near, "rows": profile.rows}))
"""


def measure(data: Path, out: Path, helpers: int) -> dict[str, object]:
    """Runs the pipeline in a process of its own and watches its memory."""
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data), str(out), str(helpers)], stdout=subprocess.PIPE, text=True
    )
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.25):
            peak = max(peak, memory_of(child.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    said, _ = child.communicate()
    seconds = time.perf_counter() - begin
    done.set()
    thread.join()
    if child.returncode:
        raise SystemExit(f"the pipeline failed with exit code {child.returncode}")
    processor = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(peak / 2**30, 3),
        "cpu_seconds": round(processor.ru_utime + processor.ru_stime, 1),
        **json.loads(said),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--helpers", type=int, default=-1, help="processes beside the first; -1: by the machine's cores"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the rows and what becomes of them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"rows-{given.rows}-{given.seed}.jsonl"
        if not data.exists():
            make(data, given.rows, given.seed)
        result = measure(data, folder / "out", given.helpers)
        crossing, families = leaks(data, folder / "out")
    share = max(1.0, given.rows / 1_000_000)
    result |= {"families": families, "families_in_two_splits": crossing, "cores": len(os.sched_getaffinity(0))}
    result |= {"bound_seconds": BOUND_SECONDS * share, "bound_gib": BOUND_GIB * share}
    print(json.dumps(result))
    good = result["seconds"] <= BOUND_SECONDS * share and result["peak_gib"] <= BOUND_GIB * share  # type: ignore[operator]
    return 0 if good and not crossing else 1


if __name__ == "__main__":
    sys.exit(main())
