"""Progress for people, as lines of text, or for machines, as one JSON object a line; both on standard output."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Literal


class JsonLines(logging.Formatter):
    """Time, level, message, and whatever facts the record brings as `extra={"facts": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        facts = getattr(record, "facts", {})
        line = {"time": f"{record.created:.3f}", "level": record.levelname.lower(), "message": record.getMessage(), **facts}
        return json.dumps(line, allow_nan=True, default=str)


def configure(style: Literal["text", "json"]) -> None:
    """Send what `training` logs to standard output in that style; other libraries only where they warn.

    Of several processes that torchrun started, only the first has something to say.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines() if style == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("training").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
