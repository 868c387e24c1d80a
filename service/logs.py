"""Where log lines go, and what they look like: text for people, or JSON, an object a line."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

from service import identity

Form = Literal["text", "json"]


def to_stderr(form: Form = "text", worker: int | None = None) -> None:
    """Our own lines from INFO on, those of libraries from WARNING on."""
    handler = logging.StreamHandler()
    handler.setFormatter(Text(worker) if form == "text" else Json(worker))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("quartet", "modelrepo"):
        logging.getLogger(name).setLevel(logging.INFO)


def fatal(message: object, form: Form = "text", worker: int | None = None) -> None:
    """What ends the process."""
    line = f"service: {message}"
    if form == "json":
        line = Json(worker).format(logging.LogRecord("quartet", logging.CRITICAL, "", 0, str(message), None, None))
    sys.stderr.write(f"{line}\n")


class Text(logging.Formatter):
    """Level, worker where there are several, logger, message and, where it is about a request that has one, its id."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__(f"%(levelname)s {'' if worker is None else f'[{worker}] '}%(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, before what is known of an exception."""
        request_id = _about(record).get("request_id")
        return super().formatMessage(record) + (f" [{request_id}]" if request_id else "")


class Json(logging.Formatter):
    """`time` in UTC, `level`, `logger`, `message`, `worker`, an `exception` with its traceback, and the fields of the request."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """One object on one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        exception = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return msgspec.json.encode({**known, **self._worker, **_about(record), **exception}).decode()


def _about(record: logging.LogRecord) -> dict[str, object]:
    """What a line is about: as it says itself (`extra={"about": …}`), or the request that is being answered."""
    said: dict[str, object] | None = getattr(record, "about", None)
    if said is not None:
        return said
    request = identity.current.get()
    return {} if request is None else request.about()
