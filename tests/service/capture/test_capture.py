"""A sample of requests with their answers is kept as training reads it; whatever goes wrong there, requests go on."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx2
import numpy as np
import polars as pl
import pytest

from service import settings
from service.app import create_app
from service.capture import capture as capturing
from service.settings import Settings, SettingsError
from tests import micro
from training import data
from training.__main__ import main as train
from training.data import Source


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_table(root)
    micro.publish_picture(root)
    micro.publish_mean(root)
    micro.publish_text(root)
    micro.publish_text(root, "ids", tokenized=False)
    return root


def keeping(repository, folder, scenario, **more):
    """Run a coroutine function with a client of a service that keeps every request in a folder, then close it."""

    async def main():
        app = create_app(Settings(repository=repository, device="cpu", **{"capture": folder, "capture_share": 1, **more}))
        async with app.lifespan():
            transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://quartet") as client:
                client.app = app
                await asyncio.wait_for(scenario(client), 30)

    asyncio.run(main())
    return folder


@pytest.fixture
def run(repository, tmp_path):
    """The same in `tmp_path / "kept"`."""
    return partial(keeping, repository, tmp_path / "kept")


async def predict(client, model, instances):
    response = await client.post(f"/models/{model}/predict", json={"instances": instances})
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


PEOPLE = [{"age": 31.5, "town": "Oslo", "pay": 5}, {"age": None, "town": "Bergen"}, {"age": 20, "town": "Rome", "pay": -1}]


def test_a_table_is_kept_by_its_columns_with_names_of_categories_and_null_for_what_is_missing(run):
    async def scenario(client):
        await predict(client, "table", PEOPLE)
        x = {"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        assert (await client.post("/v2/models/table/infer", json={"id": "order 7", "inputs": [x]})).status_code == 200

    before = datetime.now(UTC)
    (file,) = run(scenario).rglob("*.parquet")
    kept = pl.read_parquet(file)
    assert file.parts[-3:-1] == ("table", "1")
    assert kept["age"].to_list() == [31.5, None, 20, 1]
    assert kept["town"].cast(pl.String).to_list() == ["Oslo", "Bergen", None, "Å, Lofoten"]
    assert kept["pay"].to_list() == [5, None, -1, 3]
    assert kept["quartet:pay"].to_list() == [5, -1, -1, 3], "what it answered, beside the column of the same name"
    assert kept["quartet:request"].to_list() == [None, None, None, "order 7"]
    assert kept["quartet:row"].to_list() == [0, 1, 2, 0]
    assert set(kept["quartet:version"]) == {"1"}
    assert all(timedelta() <= time - before < timedelta(seconds=30) for time in kept["quartet:time"])


ROW = {"target": ("quartet:row",), "task": "regression"}
KINDS = {  # instances, how training is to read them, as what, and the family that learns them
    "table": (PEOPLE, {"target": ("quartet:pay",)}, "Rows", "mlp"),
    "picture": ([[[[0, 1, 2], [50, 100, level]]] for level in (0, 255)], {"target": ("f",), "task": "regression"}, "Images", "mlp"),
    "mean": ([[[1.5]], [[1], [2], [4]]], {"target": ("mean",), "task": "regression"}, "Series", "lstm"),
    "text": (["ab", "hé"], {"text": "text", **ROW}, "Tokens", "transformer"),
    "ids": ([[1, 2], [200, 3, 7]], ROW, "Tokens", "transformer"),
}


@pytest.fixture(scope="module")
def kept(repository, tmp_path_factory):
    """The folder with ten requests to each model."""

    async def scenario(client):
        for model, (instances, *_) in KINDS.items():
            for _ in range(10):
                await predict(client, model, instances * 3)

    return keeping(repository, tmp_path_factory.mktemp("kept"), scenario)


@pytest.mark.parametrize("model", KINDS)
def test_training_reads_what_was_kept(kept, model):
    instances, options, kind, _ = KINDS[model]
    dataset = data.load(str(kept / model), Source(**options))
    assert type(dataset.kind).__name__ == kind
    splits = (dataset.train(1), dataset.validation, dataset.test)
    assert sum(map(len, splits)) == 30 * len(instances)
    inputs = dataset.train(1).inputs
    targets = np.unique(np.concatenate([split.targets for split in splits])).tolist()
    match model:
        case "table":
            assert set(dataset.handling["columns left out"].values()) == {"about the request"}
            assert [(column.name, column.type) for column in dataset.kind.columns] == [
                ("age", "numeric"),
                ("town", "categorical"),
                ("pay", "numeric"),
            ]
            assert dataset.kind.columns[1].categories == ("Bergen", "Oslo")
        case "picture":
            assert np.unique(inputs["image"].reshape(-1, 6), axis=0).tolist() == [[0, 1, 2, 50, 100, 0], [0, 1, 2, 50, 100, 255]]
            assert targets == [0, 255]
        case "mean":
            assert np.unique(inputs["sequence"].reshape(-1, 3), axis=0).tolist() == [[1, 2, 4], [1.5, 0, 0]]
            assert targets == pytest.approx([1.5, 7 / 3])
        case "ids":
            assert np.unique(inputs["tokens"], axis=0).tolist() == [[1, 2, 0], [200, 3, 7]]
            assert dataset.kind.vocabulary == 201


@pytest.mark.slow
@pytest.mark.parametrize("model", KINDS)
def test_training_on_what_was_kept_is_one_command(kept, model, tmp_path, monkeypatch):
    _, options, _, family = KINDS[model]
    given = [word for name, value in options.items() for word in (f"--{name}", *([value] if isinstance(value, str) else value))]
    monkeypatch.chdir(tmp_path)
    assert train([family, "--data", str(kept / model), *given, "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / f"{model}-{family}" / "best.pt").exists()


def test_texts_come_out_as_they_went_in(run):
    texts = ["ab", "hé", "", " a  b "]

    async def scenario(client):
        await predict(client, "text", texts)

    (file,) = run(scenario).rglob("*.parquet")
    kept = pl.read_parquet(file)
    assert kept["text"].to_list() == texts
    chances = kept["quartet:probabilities"].to_list()
    assert all(sum(row) == pytest.approx(1) for row in chances)
    assert [max(row) == row[1] for row in chances] == [label == "long" for label in kept["label"].cast(pl.String)]


def test_nothing_is_kept_unless_it_is_asked_for(run, tmp_path):
    async def scenario(client):
        await predict(client, "table", PEOPLE)
        assert client.app.registry.get("table").taps == ()
        assert "quartet_captured_rows" not in (await client.get("/metrics")).text

    threads = threading.active_count()
    run(scenario, capture=None)
    assert not (tmp_path / "kept").exists()
    assert "capture" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= threads + 8


def test_a_share_is_kept_each_request_with_the_same_chance(run):
    async def scenario(client):
        model = client.app.registry.get("mean")
        (sampler,) = model.taps
        answer = await model.infer({"sequence": np.ones((1, 1, 1), np.float32)})
        for _ in range(5000):
            sampler.saw({"sequence": np.ones((1, 1, 1), np.float32), "mask": np.ones((1, 1), np.bool_)}, answer, None)

    (file,) = run(scenario, capture_share=0.1).rglob("*.parquet")
    assert 500 - 110 < pl.read_parquet(file).height < 500 + 110, "five deviations"


async def metric(client, name):
    text = (await client.get("/metrics")).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{"))


async def until(client, name, value):
    while await metric(client, name) != value:
        await asyncio.sleep(0.002)


def test_a_file_is_finished_after_a_while_and_when_it_is_large(run, monkeypatch):
    async def soon(client):
        await predict(client, "table", PEOPLE)
        await until(client, "quartet_captured_rows_total", 3)  # though the service goes on
        await predict(client, "table", PEOPLE)
        await until(client, "quartet_captured_rows_total", 6)

    folder = run(soon, capture_seconds=0.01)
    files = sorted(folder.rglob("*.parquet"), key=lambda file: file.name)
    assert [pl.read_parquet(file).height for file in files] == [3, 3]
    assert all(file.suffix == ".parquet" for file in folder.rglob("*") if file.is_file() and file.name != ".lock")

    async def large(client):
        await predict(client, "table", PEOPLE * 10)
        await until(client, "quartet_captured_rows_total", 30)

    monkeypatch.setattr(capturing, "FILE_BYTES", 500)
    run(large)


def test_a_version_that_leaves_writes_what_it_has(run):
    async def scenario(client):
        await predict(client, "table", PEOPLE)
        assert (await client.post("/v2/repository/models/table/unload", json={})).status_code == 200
        await until(client, "quartet_captured_rows_total", 3)

    run(scenario, control="on")


def test_a_disk_that_takes_nothing_costs_no_request_and_is_told_of_once(run, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(28, "No space left on device", "people.parquet")

    async def scenario(client):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            for count in (1, 2):
                await predict(client, "table", PEOPLE)
                await until(client, "quartet_capture_dropped_rows_total", 3 * count)
        await predict(client, "table", PEOPLE)
        await until(client, "quartet_captured_rows_total", 3)

    with caplog.at_level(logging.INFO, "quartet.capture"):
        folder = run(scenario, capture_seconds=0.001)
    assert len(list(folder.rglob("*.parquet*"))) == 1, "and no half file is left"
    texts = [record.getMessage() for record in caplog.records]
    assert [text for text in texts if "No space left on device" in text] == texts[1:2]
    assert "takes requests again" in texts[2]


def test_an_error_that_nobody_foresaw_is_logged_without_what_callers_sent(run, monkeypatch, caplog):
    def broken(self, kept):
        raise ValueError(f"cannot take {kept}")

    async def scenario(client):
        with monkeypatch.context() as patch:
            patch.setattr(capturing.Form, "table", broken)
            await predict(client, "table", PEOPLE)
            await until(client, "quartet_capture_dropped_rows_total", 3)
        await predict(client, "table", PEOPLE)
        await until(client, "quartet_captured_rows_total", 3)

    run(scenario, capture_seconds=0.001)
    assert "ValueError" in caplog.text
    assert "in table" in caplog.text or "in broken" in caplog.text
    assert "31.5" not in caplog.text


def test_more_than_may_wait_is_dropped_and_counted(run, monkeypatch):
    async def scenario(client):
        await predict(client, "table", PEOPLE)
        await predict(client, "table", PEOPLE)
        assert await metric(client, "quartet_capture_dropped_rows_total") == 3

    monkeypatch.setattr(capturing, "MOST_BYTES", capturing.OVERHEAD * 2 - 1)
    (file,) = run(scenario).rglob("*.parquet")
    assert pl.read_parquet(file).height == 3


def test_a_folder_that_cannot_be_written_to_ends_the_start_with_a_message(repository, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"--capture '.*file' cannot be written to"):
        create_app(Settings(repository=repository, capture=tmp_path / "file"))
    assert Settings(repository=repository, capture="").capture is None, "and not the folder it was started in"
    with pytest.raises(SettingsError, match="--capture-share .* not '1.5'"):
        settings.read(["--repository", "models", "--capture-share", "1.5"])
