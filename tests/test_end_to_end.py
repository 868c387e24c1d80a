"""Train, export, prove, publish, serve, predict: all four families, by the real programs and clients."""

from __future__ import annotations

import concurrent.futures
import json
import re
import signal
import urllib.request

import numpy as np
import pytest
import tritonclient.http as triton

from modelrepo.tasks import Regression
from service.codec.tensor import datatype
from tests.conftest import TINY
from tests.server import serving
from training import checkpoint
from training.evaluation import predict

FAMILIES = list(TINY)
ROWS = 40


@pytest.fixture(scope="module")
def server(tiny_models):
    with serving(tiny_models.root) as running:
        yield running
        assert running.stop(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address, concurrency=8) as client:
        yield client


@pytest.fixture
def truth(tiny_runs, family):
    """Held-out rows and what PyTorch says to them."""
    saved = checkpoint.load(tiny_runs[family])
    holdout = checkpoint.load_rows(tiny_runs[family], "holdout", saved.facts).rows(slice(0, ROWS))
    return saved.facts.task, holdout.inputs, predict(saved.model(), holdout)


def post(server, path, body):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def triton_inputs(inputs, binary=True):
    made = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), datatype(array.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(array), binary_data=binary)
        made.append(tensor)
    return made


def unpadded(inputs, row):
    """One row as an instance: without its padding."""
    real = int(inputs["mask"][row].sum()) if "mask" in inputs else None
    (array,) = (array[row] for name, array in inputs.items() if name != "mask")
    return array[:real].tolist() if real else array.tolist()


def test_the_server_and_every_model_are_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "quartet"
    for family in FAMILIES:
        assert client.is_model_ready(f"tiny-{family}")
        assert client.is_model_ready(f"tiny-{family}", "1")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("binary", [pytest.param(True, id="binary"), pytest.param(False, id="json")])
def test_tritonclient_gets_pytorchs_answers(client, family, truth, binary):
    task, inputs, expected = truth
    outputs = None if binary else [triton.InferRequestedOutput(task.output, binary_data=False)]
    result = client.infer(f"tiny-{family}", triton_inputs(inputs, binary), outputs=outputs, request_id="42")
    np.testing.assert_allclose(result.as_numpy(task.output), expected, atol=1e-4)
    assert result.get_response()["id"] == "42"
    assert ("parameters" in result.get_output(task.output)) is binary


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_json_gets_pytorchs_answers_row_by_row(server, family, truth):
    task, inputs, expected = truth
    instances = [unpadded(inputs, row) for row in range(ROWS)]
    predictions = post(server, f"/models/tiny-{family}/predict", {"instances": instances})["predictions"]
    if isinstance(task, Regression):
        found = [[p["values"][target] for target in task.targets] for p in predictions]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        return
    chances = np.exp((expected - expected.max(1, keepdims=True)) / task.temperature)
    chances /= chances.sum(1, keepdims=True)
    for prediction, row in zip(predictions, chances, strict=True):
        ranked = {entry["label"]: entry["probability"] for entry in prediction["probabilities"]}
        np.testing.assert_allclose([ranked[label] for label in task.labels], row, atol=1e-4)
        assert prediction["label"] == task.labels[int(row.argmax())]


@pytest.mark.parametrize("family", FAMILIES)
def test_callers_at_once_share_batches_and_get_their_own_rows(server, family, truth):
    task, inputs, expected = truth

    def ask(row):
        mine = {name: array[row : row + 1] for name, array in inputs.items()}
        if "mask" in mine:
            mine = {name: array[:, : int(mine["mask"].sum())] for name, array in mine.items() if name != "mask"}
        with triton.InferenceServerClient(server.address) as client:
            return client.infer(f"tiny-{family}", triton_inputs(mine)).as_numpy(task.output)[0]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose(list(pool.map(ask, range(ROWS))), expected, atol=1e-4)


def test_tritonclient_understands_our_errors(client):
    wrong = triton_inputs({"features": np.zeros((1, 3), np.float32)})
    with pytest.raises(triton.InferenceServerException, match=r"the model takes float32 \[batch, 2\]"):
        client.infer("tiny-mlp", wrong)
    with pytest.raises(triton.InferenceServerException, match="no model 'nobody'"):
        client.infer("nobody", wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_metadata_served_is_the_signature_published(client, tiny_models, family):
    signature = tiny_models.open(f"tiny-{family}").manifest.signature
    metadata = client.get_model_metadata(f"tiny-{family}")
    for side in ("inputs", "outputs"):
        found = [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in metadata[side]]
        assert found == [(spec.name, datatype(spec.dtype), spec.wire_shape) for spec in getattr(signature, side)]


def test_metrics_counted_what_was_asked(server):
    with urllib.request.urlopen(server.url + "/metrics") as response:
        text = response.read().decode()
    for family in FAMILIES:
        labels = rf'interface="(?:infer|predict)",model="tiny-{family}",status="200",version="1"'
        assert re.search(rf"quartet_requests_total\{{{labels}\}} \d", text)
