"""Which versions of which models are to serve: the setting `--versions`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

RULE = re.compile(r"latest:([1-9]\d*)|all|[1-9]\d*(,[1-9]\d*)*")
ENTRY = re.compile(r"(?:(?P<model>[A-Za-z0-9][A-Za-z0-9._-]*)=)?(?P<rule>.+)")


@dataclass(frozen=True)
class VersionPolicy:
    """`latest:2` the two newest, `all`, or `1,3` those; one rule for all models, and others by name."""

    rule: str = "latest:1"
    by_model: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> VersionPolicy:
        """Read `latest:1 digits-cnn=all spirals-mlp=1,3`. Raises ValueError naming the part that is no rule."""
        rule, by_model = "latest:1", {}
        for part in text.split():
            entry = ENTRY.fullmatch(part)
            if entry is None or not RULE.fullmatch(entry["rule"]):
                raise ValueError(f"{part!r} is not RULE or MODEL=RULE, with latest:N, all or a list such as 1,3 as RULE")
            if entry["model"]:
                by_model[entry["model"]] = entry["rule"]
            else:
                rule = entry["rule"]
        return cls(rule, by_model)

    def of(self, model: str) -> str:
        """The rule of a model."""
        return self.by_model.get(model, self.rule)

    def named(self, model: str) -> tuple[int, ...] | None:
        """The versions, ascending, that the rule of a model lists; None where it lists none."""
        rule = self.of(model)
        return tuple(sorted(map(int, rule.split(",")))) if rule[0].isdecimal() else None

    def choose(self, model: str, published: list[int]) -> list[int]:
        """Those of the published versions, ascending, that are to serve."""
        rule = self.by_model.get(model, self.rule)
        if rule == "all":
            return published
        if latest := re.fullmatch(r"latest:(\d+)", rule):
            return published[-int(latest[1]) :]
        wanted = {int(version) for version in rule.split(",")}
        return [version for version in published if version in wanted]

    def stand_ins(self, model: str, published: list[int]) -> list[int] | None:
        """Older versions, ascending, that may serve in place of newer ones that cannot; None where exactly those named must."""
        if not self.by_model.get(model, self.rule).startswith("latest:"):
            return None
        return [version for version in published if version not in self.choose(model, published)]
