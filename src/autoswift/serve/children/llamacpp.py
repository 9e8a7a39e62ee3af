"""Serve one GGUF file by llama.cpp's own HTTP server, until SIGTERM.

`python -P llamacpp.py --model FILE --alias NAME --host 127.0.0.1 --port 8000 --context 2048 --parallel 4 --threads 1`
Needs xllamacpp. Prints one JSON line {"address", "seconds"} once it listens. No prompt or answer is written anywhere:
llama.cpp's log holds counts and times only, and only warnings at this verbosity.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time

import xllamacpp

WARNINGS = 2
"""llama.cpp's verbosity: 1 errors, 2 warnings, 3 several lines for each request, which fills a disk over months."""


def parameters(arguments: argparse.Namespace) -> xllamacpp.CommonParams:
    """llama.cpp's parameters."""
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.alias}
    params.hostnames = [arguments.host]
    params.port = arguments.port
    params.n_parallel = arguments.parallel
    params.n_ctx = arguments.context * arguments.parallel  # llama.cpp divides it among the slots
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.verbosity = WARNINGS
    params.offline = True
    params.ui = False  # our web page has its own chat
    params.endpoint_slots = False  # it shows the prompts of other users
    # A browser may not read answers from here on behalf of any web page that the user happens to visit.
    params.cors_origins = f"http://{arguments.host}"
    params.cors_credentials = False
    params.cache_idle_slots = False
    params.cache_ram_mib = 0  # by default up to 8 GiB of old prompts stay in memory
    return params


def main() -> int:
    """Starts the server and waits for SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("--port", "--context", "--parallel", "--threads"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends at once, also in the middle of loading or of an answer
    begin = time.monotonic()
    try:
        server = xllamacpp.Server(parameters(arguments))
    except RuntimeError as exc:
        print(f"llama.cpp could not start: {exc}", file=sys.stderr, flush=True)
        return 1
    print(json.dumps({"address": server.listening_address, "seconds": round(time.monotonic() - begin, 3)}), flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
