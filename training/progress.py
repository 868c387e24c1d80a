"""How a run shows itself: a bar that redraws itself on a terminal, a line per epoch anywhere else."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from modelrepo.tasks import Metric

log = logging.getLogger("training")


class Display:
    """Used as a context manager. `quiet` shows nothing at all, for the processes that do not report."""

    def __init__(self, name: str, steps: int, *, bar: bool, quiet: bool) -> None:
        console = Console()
        self.quiet = quiet
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[info]}"),
            console=console,
            disable=quiet or not bar or not console.is_terminal,
        )
        self.task = self.progress.add_task(name, total=steps, info="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def at(self, step: int) -> None:
        """Show how far the run is."""
        self.progress.update(self.task, completed=step)

    def epoch(self, epoch: int, epochs: int, train_loss: float, validation_loss: float, score: Metric) -> None:
        """Show how an epoch went."""
        if self.quiet:
            return
        self.progress.update(self.task, info=f"loss {train_loss:.4f}, {score.name} {score.value:.4f}")
        if self.progress.disable:
            facts = {
                "epoch": epoch,
                "train_loss": train_loss,
                "validation_loss": validation_loss,
                f"validation_{score.name}": score.value,
            }
            line = (epoch, epochs, train_loss, score.name, score.value)
            log.info("epoch %d/%d  loss %.4f  validation %s %.4f", *line, extra={"facts": facts})

    def warn(self, message: str) -> None:
        """Say something above the bar."""
        if self.progress.disable:
            log.warning("%s", message)
        else:
            self.progress.console.print(message, markup=False)
