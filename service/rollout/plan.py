"""What a new version has to go through before it serves: stages and limits, as settings, orders and the state file have them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

STAGE = re.compile(r"(shadow|canary):(\d+(?:\.\d+)?)")
ENTRY = re.compile(r"(?:(?P<model>[A-Za-z0-9][A-Za-z0-9._-]*)=)?(?P<stages>.+)")
NONE = "none"

Share = Annotated[float, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(gt=1)]
Positive = Annotated[float, Meta(gt=0)]


class Stage(Struct, frozen=True, forbid_unknown_fields=True):
    """`shadow`: a new version gets copies of a share of the requests, and is compared. `canary`: it answers a share of them."""

    mode: Literal["shadow", "canary"]
    share: Share

    def __str__(self) -> str:
        return f"{self.mode}:{100 * self.share:g}"


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """When a rollout goes back, and when on, by itself. None: not looked at.

    Each `requests` requests or copies that the new version had are judged by themselves. Then it goes back where more of them
    failed than the old version's, by more than `errors`, a share; where their mean or 99th percentile took more than `mean` or
    `p99` times the old version's; where more than `disagreements` of the rows are decided differently, or `differences` of them are
    further apart than the parity gates allow, or than `tolerance` in the task's unit. Where nothing is decided, as in a regression,
    a row disagrees that is further apart. It goes on to the next stage once `promote` requests, and `seconds` of the stage, were
    within the limits; with None only by order.
    """

    requests: Annotated[int, Meta(ge=1)] = 500
    errors: Share | None = 0.02
    mean: Ratio | None = 2.0
    p99: Ratio | None = None
    disagreements: Share | None = 0.05
    differences: Share | None = None
    tolerance: Positive | None = None
    promote: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[float, Meta(ge=0)] = 60.0


def stages(text: str) -> tuple[Stage, ...]:
    """Read `shadow:20,canary:10`, in percent. Raises ValueError naming the part that is no stage."""
    found = []
    for part in text.split(","):
        match = STAGE.fullmatch(part.strip())
        if match is None or float(match[2]) > 100:
            raise ValueError(f"{part!r} is not a stage: shadow:PERCENT or canary:PERCENT, 0 to 100")
        mode: Literal["shadow", "canary"] = "shadow" if match[1] == "shadow" else "canary"
        found.append(Stage(mode, float(match[2]) / 100))
    return tuple(found)


def limits(text: str) -> Limits:
    """Read `errors=0.01 mean=none promote=5000`, the others left as they are. Raises ValueError naming the part at fault."""
    given: dict[str, Any] = {}
    for part in text.split():
        name, _, value = part.partition("=")
        if name not in Limits.__struct_fields__ or not value:
            raise ValueError(f"{part!r} is not LIMIT=NUMBER or LIMIT=none, with LIMIT of {', '.join(Limits.__struct_fields__)}")
        given[name] = None if value == NONE else value
    return limits_of(given)


def limits_of(given: Mapping[str, Any], base: Limits | None = None) -> Limits:
    """These limits, the others as in `base` or by default; numbers may be texts. Raises ValueError."""
    known = msgspec.structs.asdict(base) if base is not None else {}
    try:
        found = msgspec.convert({**known, **given}, Limits, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"limits {dict(given)}: {error}") from None
    for name, value in msgspec.structs.asdict(found).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"limit {name} is {value}; it takes a number, or none")
    return found


@dataclass(frozen=True)
class Rules:
    """How newer versions begin, where they do not serve at once: for all models, and for some by name."""

    rule: tuple[Stage, ...] | None = None
    by_model: Mapping[str, tuple[Stage, ...] | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Read `canary:10 digits-cnn=shadow:20,canary:10 spirals-mlp=none`. Raises ValueError naming the part that is no rule."""
        rule: tuple[Stage, ...] | None = None
        by_model: dict[str, tuple[Stage, ...] | None] = {}
        for part in text.split():
            entry = ENTRY.fullmatch(part)
            if entry is None:
                raise ValueError(f"{part!r} is not STAGES or MODEL=STAGES, with STAGES such as shadow:20,canary:10, or none")
            found = None if entry["stages"] == NONE else stages(entry["stages"])
            if entry["model"]:
                by_model[entry["model"]] = found
            else:
                rule = found
        return cls(rule, by_model)

    def of(self, model: str) -> tuple[Stage, ...] | None:
        """The stages that a newer version of a model goes through; None where it serves at once."""
        return self.by_model.get(model, self.rule)
