"""How many bytes each model may take for something: the setting `--response-cache-bytes`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ENTRY = re.compile(r"(?:(?P<model>[A-Za-z0-9][A-Za-z0-9._-]*)=)?(?P<size>\d{1,15})")


@dataclass(frozen=True)
class Budget:
    """A number of bytes for every model, and others by name."""

    size: int = 0
    by_model: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `1000000 digits-cnn=0 films=50000000`. Raises ValueError naming the part that is none."""
        size, by_model = 0, {}
        for part in text.split():
            entry = ENTRY.fullmatch(part)
            if entry is None:
                raise ValueError(f"{part!r} is not BYTES or MODEL=BYTES, with BYTES as a whole number such as 67108864")
            if entry["model"]:
                by_model[entry["model"]] = int(entry["size"])
            else:
                size = int(entry["size"])
        return cls(size, by_model)

    def of(self, model: str) -> int:
        """Bytes for one model."""
        return self.by_model.get(model, self.size)
