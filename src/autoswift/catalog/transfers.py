"""Brings a model's files into the cache: several at once, each resumed, each hashed as it arrives."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from autoswift.catalog import hub, net
from autoswift.catalog.cached import is_here, record, room
from autoswift.catalog.hub import HubFile, Session
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import file_sha256

AT_ONCE = 4
"""Files on their way together: one line of a hub gives about 50 MB/s, four fill most connections."""
TELL_SECONDS = 0.2
Tell = Callable[[str, str, int, int, float], None]
"""Called with (what: download or verify, file, bytes done, bytes in all, bytes a second)."""


def bring(folder: Path, files: Iterable[HubFile], tell: Tell, *, of: Iterable[HubFile] = ()) -> dict[str, str]:
    """Brings files into the cache, several at once; those that are here already are not asked for.

    Args:
        folder: of the cache.
        files: each with the hash that it must have.
        tell: told of progress.
        of: all files of the model: for the room that is needed, and for the bytes in all.

    Returns:
        Name to SHA-256.

    Raises:
        ModelError: when one is not what was announced. HubUnreachable: when the hub breaks off again and again.
        DiskFull: before anything is written, when there is no room.
    """
    wanted = list(files)
    got = {f.name: known for f in wanted if (known := _known(folder, f))}
    missing = [f for f in wanted if f.name not in got]
    everything = list(of) or wanted
    absent = [f for f in everything if not _known(folder, f)]
    room(folder, sum(max(f.size - hub.part_bytes(folder / f.name), 0) for f in absent))
    if not missing:
        return got
    with disk_errors_explained(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    total = sum(f.size for f in everything)
    meter = _Meter(tell, total, total - sum(f.size for f in absent))
    got |= _parallel(folder, missing, meter)
    return got


def _known(folder: Path, file: HubFile) -> str:
    """The SHA-256 of a file that is here and is the one meant; else empty."""
    if file.sha256:
        return file.sha256 if is_here(folder, file.name, file.sha256) else ""
    path = folder / file.name
    if not file.git_sha1 or not path.is_file() or hub.git_sha1(path) != file.git_sha1:
        return ""
    return file_sha256(path)


def _parallel(folder: Path, files: list[HubFile], meter: _Meter) -> dict[str, str]:
    """Threads that die with the process: an interrupt need not wait for a hub that says nothing."""
    with net.client(files[0].url) as client:
        crew = _Crew(folder, files, meter, Session(client=client))
        threads = [threading.Thread(target=crew.work, daemon=True) for _ in range(min(AT_ONCE, len(files)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive() and not crew.failed:
                    thread.join(0.1)
        finally:
            crew.session.cancel.set()
            for thread in threads:
                thread.join(1.0 if crew.failed else 0.0)
    if crew.failed:
        raise crew.failed[0]
    return crew.got


class _Crew:
    """What the threads share; the first that fails stops the others."""

    def __init__(self, folder: Path, files: list[HubFile], meter: _Meter, session: Session) -> None:
        self.folder, self.meter, self.session = folder, meter, session
        self.todo: queue.SimpleQueue[HubFile] = queue.SimpleQueue()
        for file in sorted(files, key=lambda f: -f.size):
            self.todo.put(file)
        self.got: dict[str, str] = {}
        self.failed: list[BaseException] = []

    def work(self) -> None:
        try:
            while not self.session.cancel.is_set():
                file = self.todo.get_nowait()
                digest = hub.download(file, self.folder / file.name, self.meter.advance(file.name), self.session)
                record(self.folder, file.name, digest)
                self.got[file.name] = digest
        except (queue.Empty, net.CancelledError):
            return
        except BaseException as exc:  # handed to the caller's thread
            self.failed.append(exc)
            self.session.cancel.set()


class _Meter:
    """Adds up what all threads bring, and tells of it a few times a second."""

    def __init__(self, tell: Tell, total: int, done: int) -> None:
        self._tell, self._total, self._done = tell, total, done
        self._lock = threading.Lock()
        self._told = self._since = time.monotonic()
        self._arrived = 0

    def advance(self, name: str) -> Callable[[int], None]:
        def add(count: int) -> None:
            with self._lock:
                self._done += count
                self._arrived += max(count, 0)
                now = time.monotonic()
                if now - self._told < TELL_SECONDS and self._done < self._total:
                    return
                self._told = now
                rate = self._arrived / max(now - self._since, 1e-3)
                self._tell("download", name, max(0, min(self._done, self._total)), self._total, rate)

        return add


def hash_all(paths: dict[str, Path], tell: Callable[[str, int, int], None]) -> dict[str, str]:
    """SHA-256 of many files, several at once (hashing leaves Python to other threads), largest first.

    Args:
        paths: name to file.
        tell: called with (file, bytes done, bytes in all).
    """
    from concurrent.futures import ThreadPoolExecutor, as_completed

    sizes = {name: path.stat().st_size for name, path in paths.items()}
    total, done, made = sum(sizes.values()), 0, {}
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, os.cpu_count() or 1)) as pool:
        order = sorted(paths, key=lambda name: -sizes[name])
        futures = {pool.submit(file_sha256, paths[name]): name for name in order}
        for future in as_completed(futures):
            name = futures[future]
            made[name] = future.result()
            done += sizes[name]
            tell(name, done, total)
    return made
