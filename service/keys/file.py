"""The file of keys: names, hashes of keys, and what each may do.

A key is 256 random bits, so one SHA-256 is enough at rest: a slow hash such as Argon2 makes up for passwords that can be guessed,
and there is nothing to guess here. It would cost milliseconds in every request.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from modelrepo.errors import QuartetError

Scope = Literal["infer", "read", "admin"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # also the value of a label, and the name of a file
PREFIX = "quartet_"  # by which scanners of repositories and logs find a key that got where it should not be
FRESH_MODE = 0o600


class KeysError(QuartetError):
    """A file of keys that cannot be used; the message names the file and every fault."""


class Key(BaseModel):
    """One key. `scopes`: infer asks models, admin changes them, read does neither; each may read.

    `models` confines all of it to these. `rate` is in requests a second, of which `burst` may come at once (a second's worth where
    it is left out); `concurrency` is how many may be under way. What is left out has no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    sha256: str
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = ("infer",)
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    burst: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    created: str | None = None

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name: letters, digits, '.', '_' and '-', at most 63, a letter or digit first")
        return name

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, text: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", text):  # what stands there may be the key itself: it is not shown
            raise ValueError("no SHA-256 of a key: 64 characters of lower-case hex, as `python -m service.keys add` writes it")
        return text

    @model_validator(mode="after")
    def _bursts_of_something(self) -> Key:
        if self.burst is not None and self.rate is None:
            raise ValueError("burst needs a rate")
        return self

    @property
    def at_once(self) -> int:
        """Requests that may come at once, where there is a rate."""
        return self.burst or max(1, ceil(self.rate or 1))


class Keys(BaseModel):
    """All keys of a file. No two have the same name or the same hash."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    keys: tuple[Key, ...]

    @model_validator(mode="after")
    def _differ(self) -> Keys:
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.keys]
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{what} {twice[0]!r} stands there twice")
        return self


def digest(key: str) -> bytes:
    """What a key is known by, 32 bytes."""
    return hashlib.sha256(key.encode("latin-1", "replace")).digest()


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file. Raises KeysError."""
    try:
        return Keys.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}: make it with `python -m service.keys --keys {path} add NAME`") from None
    except ValidationError as error:
        raise KeysError(f"{path}: {_faults(error)}") from None


def fresh(name: str, **limits: object) -> tuple[str, Key]:
    """A new key, which nobody can be told again, and its entry. Raises KeysError for what an entry cannot be."""
    secret = PREFIX + secrets.token_urlsafe(32)
    entry = {"name": name, "sha256": digest(secret).hex(), "created": date.today().isoformat(), **limits}
    try:
        return secret, Key.model_validate({field: value for field, value in entry.items() if value is not None})
    except ValidationError as error:
        raise KeysError(_faults(error)) from None


def _faults(error: ValidationError) -> str:
    """All of them, without the values: one may be a key that was pasted where its hash belongs."""
    found = [
        (".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, "))
        for fault in error.errors(include_url=False, include_input=False)
    ]
    return "; ".join(f"{place}: {message}" if place else message for place, message in found)


def write(path: Path, keys: tuple[Key, ...]) -> None:
    """Replace the file as a whole: a server that looks meanwhile sees the old one or the new one.

    A new file is for its owner alone; one that is there keeps its mode and group, as the server may read it by them.
    """
    text = Keys(keys=keys).model_dump_json(indent=2, exclude_none=True) + "\n"
    path = path.resolve()  # a link stays one
    descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            mode = FRESH_MODE
            if path.exists():
                before = path.stat()
                mode = before.st_mode & 0o777
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """A block in which no other such block changes a file of that folder."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
