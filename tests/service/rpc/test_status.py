"""Every error that a caller can get has a code."""

from __future__ import annotations

from service.errors import ServiceError
from service.rpc.status import CODES


def errors(kind):
    return [kind, *(each for child in kind.__subclasses__() for each in errors(child))]


def test_every_error_has_a_code():
    assert {kind.__name__ for kind in errors(ServiceError) if kind.status not in CODES} == set()
