"""Who watches the requests of every version: looks for drift, keeps a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from service.drift import Drifts
from service.metrics import Metrics
from service.settings import Settings, SettingsError

if TYPE_CHECKING:  # a model has its drift
    from service.model import ServedModel


class Watcher(Protocol):
    """Puts a tap on versions."""

    def watch(self, model: ServedModel) -> None:
        """A version answers from now on."""

    def leave(self, model: ServedModel) -> None:
        """It answers no more."""

    def close(self) -> None:
        """No version answers any more; called in a thread, it may take a while."""


def watchers(settings: Settings, metrics: Metrics) -> tuple[Watcher, ...]:
    """Those that the settings ask for. Raises SettingsError."""
    found: list[Watcher] = [Drifts(settings, metrics)]
    if settings.capture is not None:
        try:
            from service.capture.capture import Capture
        except ModuleNotFoundError as error:
            raise SettingsError(f"--capture needs {error.name}: pip install 'quartet[capture]'") from None
        found.append(Capture(settings, metrics))
    return tuple(found)
