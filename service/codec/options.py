"""What a request may ask for besides its answers, as `?top_k=3&explain=true` or as fields of a form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl

from modelrepo.tasks import Regression, Task
from service.errors import InvalidRequest

COUNT = re.compile(r"[0-9]{1,9}")
FLAGS = {"true": True, "false": False}


class Options(NamedTuple):
    """`top_k`: how many labels to list, None for all of them. `explain`: whether to say how the answer came about."""

    top_k: int | None = None
    explain: bool = False

    def joined(self, other: Options) -> Options:
        """What is asked for in two places. Raises InvalidRequest where they contradict each other."""
        if self.top_k is not None and other.top_k is not None and self.top_k != other.top_k:
            raise InvalidRequest(f"top_k is {self.top_k} in the body and {other.top_k} in the query: give it once")
        return Options(other.top_k if self.top_k is None else self.top_k, self.explain or other.explain)


NONE = Options()


def from_query(query: str) -> Options:
    """The options in a query string. Raises InvalidRequest."""
    try:
        return from_pairs(parse_qsl(query, keep_blank_values=True, max_num_fields=10)) if query else NONE
    except ValueError:
        raise InvalidRequest("the query has more than 10 parameters; top_k and explain are all there are") from None


def from_pairs(pairs: Iterable[tuple[str, str]]) -> Options:
    """The options among names and values that came as text. Raises InvalidRequest for any other name, or one given twice."""
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in Options._fields:
            raise InvalidRequest(f"unknown parameter {name!r}; known are top_k and explain")
        if name in given:
            raise InvalidRequest(f"{name} is given twice: give it once")
        given[name] = value
    top_k, explain = given.get("top_k"), given.get("explain", "false")
    if top_k is not None and not COUNT.fullmatch(top_k):
        raise InvalidRequest(f"top_k is {top_k!r}; it takes 1 or more")
    if explain not in FLAGS:
        raise InvalidRequest(f"explain is {explain!r}; it takes true or false")
    return Options(None if top_k is None else int(top_k), FLAGS[explain])


def check_top_k(top_k: int, task: Task) -> None:
    """Raise InvalidRequest where the task has no use for it."""
    if isinstance(task, Regression):
        raise InvalidRequest("top_k is for labels; this model answers values")
    if top_k < 1:
        raise InvalidRequest(f"top_k is {top_k}; it takes 1 or more")
