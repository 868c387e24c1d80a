"""Where log lines go."""

from __future__ import annotations

import logging


def to_stderr(prefix: str = "") -> None:
    """Our own lines from INFO on, those of libraries from WARNING on."""
    logging.basicConfig(level=logging.WARNING, format=f"%(levelname)s {prefix}%(name)s: %(message)s")
    for name in ("quartet", "modelrepo"):
        logging.getLogger(name).setLevel(logging.INFO)
