"""`python -m service --repository models`."""

from __future__ import annotations

import signal
import sys

from modelrepo.errors import QuartetError
from modelrepo.pull import pull
from modelrepo.repository import Repository
from service import logs, settings
from service.port import address, bind, reserve_rpc
from service.settings import Settings
from service.supervisor import Supervisor


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean shutdown, 1 with a message where start-up fails.

    A signal before it listens ends it at once, with 130 or 143.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # in a container nobody else does: process 1 has no default
    chosen = None
    try:
        chosen = settings.read(arguments)
        logs.to_stderr(chosen.log_format)
        if chosen.workers > 1:
            _fetch(chosen)
            return Supervisor(chosen).run()
        with bind(chosen.host, chosen.port) as listener, reserve_rpc(chosen) as rpc:
            _fetch(chosen)
            from service.server import serve  # not before: a supervisor needs none of it

            return serve(chosen, listener, address(rpc))
    except QuartetError as error:
        logs.fatal(error, "text" if chosen is None else chosen.log_format)
        return 1
    except KeyboardInterrupt:  # before it listens; from then on the server takes the signal itself
        return 130


def _fetch(chosen: Settings) -> None:
    if chosen.pull:
        pull(chosen.pull, Repository(chosen.repository))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
