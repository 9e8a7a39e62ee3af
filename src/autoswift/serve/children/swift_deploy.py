"""`swift deploy` on exactly the port it was given.

`python -P swift_deploy.py <arguments of swift deploy>`. By itself swift silently takes the next port when the asked
one is in use, and counts a port as in use for a minute after a server on it died: a restarted server would then sit
where nobody looks. Here the port is taken or the start fails. Needs ms-swift.
"""

from __future__ import annotations

import sys

import swift.arguments.deploy_args
from swift.pipelines import deploy_main


def exactly(port: int) -> int:
    """The port itself; uvicorn fails with "address already in use" when it is not free."""
    return port


if __name__ == "__main__":
    swift.arguments.deploy_args.find_free_port = exactly
    deploy_main(sys.argv[1:])
