"""Progress for people, as lines of text, or for machines, as one JSON object a line; both on standard output."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from typing import Literal


class JsonLines(logging.Formatter):
    """Time, level, message, and whatever facts the record brings as `extra={"facts": {…}}`; what JSON has no number for is text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        facts = getattr(record, "facts", {})
        shown = {
            name: value if not isinstance(value, float) or math.isfinite(value) else str(value) for name, value in facts.items()
        }
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage(), **shown}
        return json.dumps(line, allow_nan=False, default=str)


def configure(style: Literal["text", "json"]) -> None:
    """Send what `training` logs to standard output in that style; other libraries only where they warn.

    Of several processes that torchrun started, only the first has something to say.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines() if style == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("training").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
