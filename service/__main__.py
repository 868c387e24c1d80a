"""`python -m service --repository models`."""

from __future__ import annotations

import sys

from modelrepo.errors import QuartetError
from service import settings
from service.port import bind
from service.supervisor import Supervisor


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean shutdown, 1 with a message where start-up fails."""
    try:
        chosen = settings.read(arguments)
        if chosen.workers > 1:
            return Supervisor(chosen).run()
        from service.server import serve  # not before: a supervisor needs none of it

        with bind(chosen.host, chosen.port) as listener:
            return serve(chosen, listener)
    except QuartetError as error:
        print(f"service: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before it listens; from then on the server takes the signal itself
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
