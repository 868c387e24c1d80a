"""What a drill is given, and what it hands back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.report import Report


@dataclass(frozen=True)
class Setting:
    """Where a drill takes place: `repository` is read only, `folder` is the drill's own and empty."""

    repository: Path
    folder: Path
    seconds: float
    """Of overload, and of mixed shapes."""
    cycles: int
    """Of loading and unloading."""

    @property
    def log(self) -> Path:
        """What the servers write."""
        return self.folder / "server.log"


@dataclass
class Outcome:
    """A row of the table per phase, the promises that were put to the test, and what a reader should know besides."""

    rows: list[tuple[str, Report]] = field(default_factory=list)
    promises: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, phase: str, report: Report) -> None:
        """Add a phase; nothing in it may be lost."""
        self.rows.append((phase, report))

    def promise(self, text: str, kept: bool) -> None:
        """Add what should hold, and whether it did."""
        self.promises.append((text, kept))

    @property
    def passed(self) -> bool:
        """Nothing lost, something answered in every phase, every promise kept."""
        return all(report.right and not report.lost for _, report in self.rows) and all(kept for _, kept in self.promises)


async def soon(condition: Callable[[], Awaitable[bool]], within: float) -> bool:
    """Whether a condition comes true within some seconds; asked ten times a second."""
    end = time.monotonic() + within
    while not await condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.1)
    return True
