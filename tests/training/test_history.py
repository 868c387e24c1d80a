from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.history import CSV, EVENTS, JSONL, RUN_ID, History, HistoryError, read_epochs, read_steps

CONFIG = {"epochs": 3, "model": {"hidden": [64, 64], "note": "x" * 7000}}
PER_EPOCH = 10
MLFLOW = os.environ.get("MLFLOW_COMMAND") or shutil.which("mlflow")


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def train(history: History, steps: range) -> None:
    """Log what a run would: each step, and an epoch of ten steps at its end."""
    for step in steps:
        history.log_step(step, {"loss": 1 / step, "learning_rate": 0.1 * step})
        if step % PER_EPOCH == 0:
            history.log_epoch(step // PER_EPOCH, step, {"train/loss": 2 / step, "validation/accuracy": 1 - 1 / step})


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CSV, JSONL)}


def shown(folder: Path, tag: str) -> dict[int, float]:
    """What TensorBoard shows of a tag, by step."""
    board = EventAccumulator(str(folder / EVENTS))
    board.Reload()
    scalars = board.Scalars(tag)
    assert len({s.step for s in scalars}) == len(scalars)
    return {s.step: s.value for s in scalars}


def test_steps_and_epochs_come_back_as_they_were_logged(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        train(history, range(1, 21))
    assert read_steps(tmp_path)[6] == {"step": 7, "loss": 1 / 7, "learning_rate": 0.1 * 7}
    assert read_epochs(tmp_path)[1] == {"epoch": 2, "step": 20, "train/loss": 0.1, "validation/accuracy": 0.95}
    assert [len(read_steps(tmp_path)), len(read_epochs(tmp_path))] == [20, 2]
    with (tmp_path / CSV).open() as stream:
        assert list(csv.DictReader(stream))[1] == {
            "epoch": "2",
            "step": "20",
            "train/loss": "0.1",
            "validation/accuracy": "0.95",
        }
    assert shown(tmp_path, "validation/accuracy") == pytest.approx({10: 0.9, 20: 0.95})
    assert shown(tmp_path, "step/loss")[7] == pytest.approx(1 / 7)
    assert shown(tmp_path, "train/loss") == pytest.approx({10: 0.2, 20: 0.1})


def test_an_epoch_can_be_read_as_soon_as_it_is_logged(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        train(history, range(1, 11))
        assert len(read_steps(tmp_path)) == 10
        assert len((tmp_path / CSV).read_text().splitlines()) == 2


def test_tensors_and_numpy_numbers_are_logged_as_plain_numbers(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        history.log_step(1, {"loss": torch.tensor(0.5), "count": 3})
        history.log_epoch(1, 1, {"accuracy": np.float32(0.25)})
    assert [json.loads(line) for line in (tmp_path / JSONL).read_text().splitlines()] == [
        {"step": 1, "loss": 0.5, "count": 3},
        {"epoch": 1, "step": 1, "accuracy": 0.25},
    ]


def test_numbers_that_are_not_finite_stay_valid_json_and_come_back(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        history.log_epoch(1, 1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    row = json.loads((tmp_path / JSONL).read_text(), parse_constant=refuse)
    assert (row["a"], row["b"], row["c"]) == ("NaN", "Infinity", "-Infinity")
    back = read_epochs(tmp_path)[0]
    assert math.isnan(back["a"])
    assert (back["b"], back["c"], back["d"]) == (math.inf, -math.inf, 1.0)
    assert (tmp_path / CSV).read_text().splitlines()[1] == "1,1,nan,inf,-inf,1.0"


def test_a_quantity_that_appears_later_gets_its_column(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        history.log_epoch(1, 10, {"a": 1.0})
        history.log_epoch(2, 20, {"b": 2.0})
        history.log_epoch(3, 30, {"a": 3.0})
    assert (tmp_path / CSV).read_text() == "epoch,step,a,b\n1,10,1.0,\n2,20,,2.0\n3,30,3.0,\n"


@pytest.mark.parametrize("saved", [pytest.param(20, id="at an epoch's end"), pytest.param(17, id="within an epoch")])
def test_a_run_killed_and_resumed_leaves_the_files_of_one_that_was_not(tmp_path, saved):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with History(whole, run="r", config=CONFIG) as history:
        train(history, range(1, 31))
    with History(tmp_path / "alive", run="r", config=CONFIG) as history:
        train(history, range(1, saved + 1))
        history.flush()  # and here the checkpoint is saved
        train(history, range(saved + 1, 29))
        history._write()
        shutil.copytree(tmp_path / "alive", cut)  # what a process killed now leaves
    with (cut / JSONL).open("a") as stream:
        stream.write('{"step": 29, "lo')
    [events] = (cut / EVENTS).iterdir()  # TensorBoard orders these files by the second in their name
    events.rename(cut / EVENTS / re.sub(r"tfevents\.\d+", "tfevents.1000000000", events.name))
    with History(cut, run="r", config=CONFIG, step=saved) as history:
        train(history, range(saved + 1, 31))
    assert contents(cut) == contents(whole)
    for tag in ("step/loss", "step/learning_rate", "train/loss", "validation/accuracy"):
        assert shown(cut, tag) == shown(whole, tag)


def test_an_epoch_logged_after_the_checkpoint_of_its_last_step_is_not_there_twice(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        train(history, range(1, 11))
    before = contents(tmp_path)
    with History(tmp_path, run="r", config=CONFIG, step=10) as history:
        history.log_epoch(1, 10, {"train/loss": 0.2, "validation/accuracy": 0.9})
    assert contents(tmp_path) == before


def test_a_new_run_drops_what_the_folder_recorded_before(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        train(history, range(1, 31))
    (tmp_path / RUN_ID).write_text("of another time\n")
    with History(tmp_path, run="r", config=CONFIG) as history:
        train(history, range(1, 11))
    assert [len(read_steps(tmp_path)), len(read_epochs(tmp_path))] == [10, 1]
    assert list(shown(tmp_path, "validation/accuracy")) == [10]
    assert not (tmp_path / RUN_ID).exists()


def test_a_long_epoch_is_thinned_for_tensorboard_but_not_in_the_file(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        for step in range(1, 501):
            history.log_step(step, {"loss": 1 / step})
    assert len(read_steps(tmp_path)) == 500
    assert len(shown(tmp_path, "step/loss")) == 20


def test_steps_are_written_before_memory_fills_with_them(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        for step in range(1, 1001):
            history.log_step(step, {"loss": 1 / step})
        assert len(read_steps(tmp_path)) == 1000


def test_final_metrics_are_in_tensorboard(tmp_path):
    with History(tmp_path, run="r", config=CONFIG) as history:
        train(history, range(1, 11))
        history.finish({"test/accuracy": 0.75}, tmp_path)
    assert shown(tmp_path, "test/accuracy") == {10: 0.75}


def test_a_folder_without_a_history_has_none_and_a_foreign_file_is_refused(tmp_path):
    assert read_epochs(tmp_path) == read_steps(tmp_path) == []
    (tmp_path / JSONL).write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(HistoryError, match=r"metrics.jsonl, line 2: .* is no record of a run: remove the file"):
        read_steps(tmp_path)


def test_mlflow_asked_for_but_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(HistoryError, match=r"http://127.0.0.1:1.*pip install 'quartet\[mlflow\]'"):
        History(tmp_path, run="r", config=CONFIG)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow server of our own, where the `mlflow` package (not only mlflow-skinny) can be found."""
    if not MLFLOW or subprocess.run([MLFLOW, "server", "--help"], capture_output=True, check=False).returncode:
        pytest.skip("no MLflow server here: pip install mlflow in an environment, and put its mlflow in MLFLOW_COMMAND")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    listen = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments = [MLFLOW, "server", *where, *listen]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert any("Application startup complete" in line for line in process.stderr)
        yield f"http://127.0.0.1:{port}"
        os.killpg(process.pid, signal.SIGKILL)  # its workers too; it waits long for idle connections otherwise


@pytest.fixture(params=["file", "server"])
def mlflow(request, tmp_path, monkeypatch):
    """A client of MLflow's own file store, and of a server, with the environment set so that runs go there."""
    pytest.importorskip("mlflow", reason="the extra is not installed: pip install 'quartet[mlflow]'")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri() if request.param == "file" else request.getfixturevalue("server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return MlflowClient(uri)


def steps_of(client, run_id: str, key: str) -> list[int]:
    return sorted(metric.step for metric in client.get_metric_history(run_id, key))


def test_a_run_is_on_the_mlflow_server_with_settings_numbers_and_files(tmp_path, mlflow, request):
    folder = tmp_path / "spirals-mlp"
    with History(folder, run="spirals-mlp", config=CONFIG) as history:
        train(history, range(1, 21))
        history.log_epoch(3, 21, {"gradient_norm/layers.0 (odd%name)": math.nan})
        history.finish({"test/macro F1": 0.75}, folder)
    experiment = mlflow.get_experiment_by_name(request.node.name)
    [found] = mlflow.search_runs([experiment.experiment_id])
    assert found.info.run_id == (folder / RUN_ID).read_text().strip()
    assert (found.info.run_name, found.info.status) == ("spirals-mlp", "FINISHED")
    assert found.data.params["model.hidden"] == "[64, 64]"
    assert found.data.params["epochs"] == "3"
    assert found.data.metrics["test/macro F1"] == 0.75
    assert math.isnan(found.data.metrics["gradient_norm/layers.0 _odd_name_"])
    assert steps_of(mlflow, found.info.run_id, "step/learning_rate") == list(range(1, 21))
    assert {artifact.path for artifact in mlflow.list_artifacts(found.info.run_id)} >= {CSV, JSONL}


def test_a_resumed_run_goes_on_in_the_same_mlflow_run_without_doubles(tmp_path, mlflow):
    def crash():
        raise RuntimeError("the machine was taken away")

    with pytest.raises(RuntimeError), History(tmp_path / "run", run="r", config=CONFIG) as history:
        train(history, range(1, 29))
        crash()
    run_id = (tmp_path / "run" / RUN_ID).read_text().strip()
    assert mlflow.get_run(run_id).info.status == "FAILED"
    with History(tmp_path / "run", run="r", config={"epochs": 4}, step=20) as history:
        train(history, range(21, 31))
        assert mlflow.get_run(run_id).info.status == "RUNNING"
        history.finish({}, tmp_path / "run")
    assert (tmp_path / "run" / RUN_ID).read_text().strip() == run_id
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert steps_of(mlflow, run_id, "step/learning_rate") == list(range(1, 31))
    assert steps_of(mlflow, run_id, "validation/accuracy") == [10, 20, 30]


def test_an_mlflow_server_that_does_not_answer_is_named_and_the_old_history_kept(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra is not installed: pip install 'quartet[mlflow]'")
    with History(tmp_path, run="r", config=CONFIG) as history:
        train(history, range(1, 11))
    before = contents(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(HistoryError, match="MLflow at http://127.0.0.1:1 cannot be used .*: check MLFLOW_TRACKING_URI"):
        History(tmp_path, run="r", config=CONFIG)
    assert contents(tmp_path) == before


def test_a_server_that_goes_away_costs_a_warning_and_what_waited_is_sent_at_the_end(tmp_path, mlflow, monkeypatch, caplog):
    with History(tmp_path / "run", run="r", config=CONFIG) as history:
        client = history.mlflow.client
        with monkeypatch.context() as patch:
            patch.setattr(client, "log_batch", lambda *a, **k: (_ for _ in ()).throw(history.mlflow.error("gone")))
            train(history, range(1, 21))
        assert caplog.text.count("MLflow takes no metrics (gone): training goes on") == 1
        history.finish({}, tmp_path / "run")
    run_id = (tmp_path / "run" / RUN_ID).read_text().strip()
    assert steps_of(mlflow, run_id, "step/learning_rate") == list(range(1, 21))
