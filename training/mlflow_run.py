"""A run on an MLflow server: settings as parameters, numbers as metrics, and the run folder as artifacts at the end.

MLflow itself reads where to go from the environment: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME (here `quartet` without it)
and what its server asks for as credentials. A server that goes away while training costs a warning, not the training.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from training.history import HistoryError

if TYPE_CHECKING:
    from mlflow.entities import Metric

log = logging.getLogger("training")

EXPERIMENT = "quartet"
BATCH, PARAMS, LONGEST = 1000, 100, 6000  # metrics and parameters a request may hold, characters a parameter may have
FOREIGN = re.compile(r"[^\w\-. :/]")  # what MLflow allows in no name


class MLflowRun:
    """One run of the server, known again by the id in the file `path`. Raises HistoryError where it cannot be opened."""

    def __init__(self, path: Path, *, run: str, config: Mapping[str, JsonValue], resume: bool) -> None:
        # MLflow's own defaults are four minutes of silent attempts to connect, and two lines on stdout for each run.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        uri = os.environ["MLFLOW_TRACKING_URI"]
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Param
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError:
            raise HistoryError(
                f"MLFLOW_TRACKING_URI is set ({uri}), but mlflow is not installed: pip install 'quartet[mlflow]', or unset it"
            ) from None
        self.error = MlflowException
        self.waiting: list[Metric] = []
        self.lost = False  # the server went away: keep all for one more attempt at the end
        self.known: dict[str, int] = {}  # by metric, the last step the server has: MLflow can take nothing back
        try:
            self.client = MlflowClient()
            if resume and path.exists():
                self.id = path.read_text().strip()
                found = self.client.get_run(self.id)
                if found.info.lifecycle_stage != "active":
                    raise HistoryError(f"the MLflow run {self.id} was deleted: restore it, or remove {path} to start another")
                self.client.update_run(self.id, status="RUNNING")
                self.known = {n: max(m.step for m in self.client.get_metric_history(self.id, n)) for n in found.data.metrics}
            else:
                name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
                experiment = self.client.get_experiment_by_name(name)
                created = experiment.experiment_id if experiment else self.client.create_experiment(name)
                self.id = self.client.create_run(created, run_name=run).info.run_id
                params = [Param(_allowed(key), text[:LONGEST]) for key, text in _flat(config)]
                for start in range(0, len(params), PARAMS):
                    self.client.log_batch(self.id, params=params[start : start + PARAMS])
                path.write_text(f"{self.id}\n")
        except MlflowException as error:
            reason = str(error).splitlines()[0][:300]
            raise HistoryError(f"MLflow at {uri} cannot be used ({reason}): check MLFLOW_TRACKING_URI, or unset it") from None
        log.info("MLflow run %s at %s", self.id, uri)

    def log(self, step: int, values: Mapping[str, float], at: float) -> None:
        """Keep numbers of one step for the next `send`; `at` is in seconds since 1970."""
        from mlflow.entities import Metric

        named = ((_allowed(name), value) for name, value in values.items())
        self.waiting += [Metric(name, v, int(at * 1000), step) for name, v in named if step > self.known.get(name, -1)]

    def send(self, *, again: bool = False) -> None:
        """Send what is waiting. Where the server does not answer, say so once and keep the rest for the end."""
        if self.lost and not again:
            return
        try:
            while self.waiting:
                self.client.log_batch(self.id, metrics=self.waiting[:BATCH])
                del self.waiting[:BATCH]
        except self.error as error:
            self.lost = True
            log.warning("MLflow takes no metrics (%s): training goes on, the rest is sent at its end", _reason(error))

    def artifacts(self, folder: Path) -> None:
        """Send what is still waiting, then every file of the folder."""
        self.send(again=True)
        try:
            self.client.log_artifacts(self.id, str(folder))
        except (self.error, OSError) as error:
            log.warning("MLflow did not take the files of %s (%s)", folder, _reason(error))

    def end(self, status: str) -> None:
        """Send what is still waiting and close the run: FINISHED, FAILED or KILLED."""
        self.send(again=True)
        try:
            self.client.set_terminated(self.id, status)
        except self.error as error:
            log.warning("MLflow run %s could not be closed as %s (%s)", self.id, status, _reason(error))


def _flat(config: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as `model.hidden`, each as text."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _allowed(name: str) -> str:
    return FOREIGN.sub("_", name)


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
