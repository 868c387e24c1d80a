"""`POST /models/{model}/internals`, over a micro model whose explain.onnx is plain arithmetic, and over trained ones."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from openapi_spec_validator import validate

from modelrepo.errors import CorruptVersion
from modelrepo.internals import Internal
from modelrepo.manifest import Internals
from modelrepo.repository import Repository, digest
from modelrepo.tasks import Regression
from runtime.internals_session import InternalsSession
from runtime.session import SessionError
from service import explainer
from service.api import internals
from tests import micro
from tests.service.api.test_repository import serving

SHOWN = (
    Internal(name="kept", kind="states", layer=0, axes=("instance", "step", "unit"), shape=(None, None, 1)),
    Internal(name="ones", kind="kernels", layer=0, axes=("filter", "step"), shape=(2, 3), labels={"filter": ("a", "b")}),
)


def publish_shown(root, name="mean"):
    """The mean of micro, which shows the steps as it adds them up, 0 in the padding, and a constant."""
    mask = np.arange(4) < np.array([1, 3, 4])[:, None]
    inputs = {"sequence": np.arange(12, dtype=np.float32).reshape(3, 4, 1) * mask[:, :, None], "mask": mask}
    with Repository(root).stage(name) as staging:
        micro.write_mean(staging.path / "model.onnx")
        proto = onnx.load(staging.path / "model.onnx")
        proto.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [2, 3], [1.0] * 6))
        proto.graph.node.append(helper.make_node("Identity", ["one"], ["ones"]))
        proto.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["batch", "length", 1]))
        proto.graph.output.append(helper.make_tensor_value_info("ones", TensorProto.FLOAT, [2, 3]))
        onnx.save(proto, staging.path / "explain.onnx")
        manifest = micro.manifest(staging.path, micro.MEAN, Regression(targets=("mean",)), inputs, micro.mean(inputs))
        shown = Internals(file=digest(staging.path / "explain.onnx"), outputs=SHOWN)
        return staging.publish(manifest.model_copy(update={"internals": shown}))


@pytest.fixture
def models(tmp_path):
    publish_shown(tmp_path)
    micro.publish_double(tmp_path)
    return tmp_path


BODY = {"instances": [[[1], [2], [6]], [[4]]]}


def explainer_of(client):
    return client.app.registry.get("mean").explainer


def test_the_answer_is_that_of_predict_and_what_happened_inside(serve, monkeypatch):
    monkeypatch.setattr(internals, "PIECE", 2)

    async def scenario(client):
        predicted = (await client.post("/models/mean/predict", json=BODY)).json()
        assert not explainer_of(client).is_open, "nobody has asked yet"
        for path in ("/models/mean/internals", "/models/mean/versions/1/internals"):
            response = await client.post(path, json=BODY)
            assert response.headers["content-type"] == "application/json"
            answer = response.json()
            kept, ones = answer.pop("internals")
            assert answer == {**predicted, "lengths": [3, 1]}
            assert kept["data"] == [[[1], [2], [6]], [[4], [0], [0]]]
            assert (kept["name"], kept["kind"], kept["layer"], kept["shape"]) == ("kept", "states", 0, [2, 3, 1])
            assert kept["axes"] == ["instance", "step", "unit"]
            assert (ones["labels"], ones["shape"]) == ({"filter": ["a", "b"]}, [2, 3])
        one = (await client.post("/models/mean/internals?names=ones", json=BODY)).json()
        assert [shown["name"] for shown in one["internals"]] == ["ones"]

    serve(scenario)


REFUSED = (
    ("double/internals", {"instances": [[1, 2]]}, 404, "model 'double' version 1 has no explain.onnx"),
    ("other/internals", BODY, 404, "no model 'other'"),
    ("mean/versions/7/internals", BODY, 404, "has no version '7' here; it has 1"),
    ("mean/internals", {"instances": []}, 400, "instances is empty"),
    ("mean/internals", {"instances": [["a"]]}, 400, "instance 0"),
    ("mean/internals", {"instances": [[[1]] * 13]}, 422, "instance 0 has length 13"),
    ("mean/internals", {"instances": [[[1]]] * 9}, 413, "the request has 9 rows; at most 8"),
    ("mean/internals", {**BODY, "explain": True}, 400, "leave it out"),
    ("mean/internals?top_k=1", BODY, 400, "top_k is for labels"),
    ("mean/internals?names=kept,gates", BODY, 400, "names has 'gates'; this model shows kept, ones"),
    ("mean/internals?names=", BODY, 400, "names has ''"),
    ("mean/internals?name=kept", BODY, 400, "unknown parameter 'name'"),
)


def test_what_cannot_be_shown_is_said_with_its_reason(serve):
    async def scenario(client):
        for path, body, status, message in REFUSED:
            response = await client.post(f"/models/{path}", json=body)
            assert (response.status_code, list(response.json())) == (status, ["error"]), path
            assert message in response.json()["error"]
        assert not explainer_of(client).is_open

    serve(scenario)


def test_an_answer_that_would_be_too_large_is_refused_with_a_way_out(serve, monkeypatch):
    monkeypatch.setattr(internals, "MOST_NUMBERS", 10)

    async def scenario(client):
        refused = await client.post("/models/mean/internals", json=BODY)
        assert refused.status_code == 413
        assert "?names=kept" in refused.json()["error"]
        assert (await client.post("/models/mean/internals?names=ones", json=BODY)).status_code == 200

    serve(scenario)


def test_it_is_closed_when_nobody_has_asked_for_a_while_and_with_its_version(serve, monkeypatch):
    closed = []
    close = InternalsSession.close
    monkeypatch.setattr(InternalsSession, "close", lambda session: (closed.append(session), close(session)))

    async def scenario(client):
        shown = explainer_of(client)
        assert (await client.post("/models/mean/internals", json=BODY)).status_code == 200
        assert shown.is_open
        monkeypatch.setattr(explainer, "IDLE_SECONDS", 0.0)
        assert (await client.post("/models/mean/internals", json=BODY)).status_code == 200
        while not closed:
            await asyncio.sleep(0)
        assert not shown.is_open
        monkeypatch.setattr(explainer, "IDLE_SECONDS", 60.0)
        assert (await client.post("/models/mean/internals", json=BODY)).status_code == 200
        await client.post("/v2/repository/models/mean/unload")
        while len(closed) < 2:
            await asyncio.sleep(0)

    serve(scenario)


def test_few_wait_for_it_and_none_who_predicts_waits_for_them(serve, monkeypatch):
    running, go_on = threading.Event(), threading.Event()
    explain = InternalsSession.explain

    def slow(*arguments):
        running.set()
        assert go_on.wait(20)
        return explain(*arguments)

    monkeypatch.setattr(InternalsSession, "explain", slow)

    async def scenario(client):
        asked = [asyncio.ensure_future(client.post("/models/mean/internals", json=BODY)) for _ in range(explainer.MOST_WAITING)]
        await asyncio.to_thread(running.wait, 20)
        while explainer_of(client)._waiting < explainer.MOST_WAITING:
            await asyncio.sleep(0)
        refused = await client.post("/models/mean/internals", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "ask one at a time" in refused.json()["error"]
        assert (await client.post("/models/mean/predict", json=BODY)).status_code == 200
        go_on.set()
        assert {response.status_code for response in await asyncio.gather(*asked)} == {200}

    serve(scenario)


def test_a_file_that_cannot_be_used_any_more_is_503_and_the_model_goes_on(models, serve):
    async def scenario(client):
        (models / "mean/1/explain.onnx").unlink()
        response = await client.post("/models/mean/internals", json=BODY)
        assert response.status_code == 503
        assert "the internals of 'mean' cannot be had here: ONNX Runtime cannot load" in response.json()["error"]
        assert (await client.post("/models/mean/predict", json=BODY)).status_code == 200

    serve(scenario)


def test_rows_that_it_cannot_compute_are_422(serve, monkeypatch):
    def fail(*arguments):
        raise SessionError("overflow\nat node 7")

    monkeypatch.setattr(InternalsSession, "explain", fail)

    async def scenario(client):
        response = await client.post("/models/mean/internals", json=BODY)
        assert (response.status_code, response.json()["error"]) == (422, "the model cannot compute these rows: overflow")

    serve(scenario)


def test_a_torn_file_is_found_before_the_version_serves(models):
    (models / "mean/1/explain.onnx").write_bytes(b"torn")
    with pytest.raises(CorruptVersion, match=r"explain.onnx has size 4"):
        Repository(models).open("mean")


def test_trained_models_show_what_their_family_has_and_the_document_says_how_to_ask(tiny_models):
    expected = {
        "tiny-cnn": {"feature_maps", "kernels"},
        "tiny-lstm": {"gates", "states", "outputs_by_step"},
        "tiny-transformer": {"attention"},
    }

    async def scenario(client):
        document = (await client.get("/openapi.json")).json()
        validate(document)
        paths = {path for path in document["paths"] if path.endswith("/internals")}
        assert paths == {f"/models/{name}/internals" for name in expected}, "an MLP has none"
        for name, kinds in expected.items():
            operation = document["paths"][f"/models/{name}/internals"]["post"]
            example = operation["requestBody"]["content"]["application/json"]["schema"]["example"]
            answer = (await client.post(f"/models/{name}/internals", json=example)).json()
            described = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
            assert set(described) == set(answer)
            assert {shown["kind"] for shown in answer["internals"]} == kinds
            assert [shown["name"] for shown in answer["internals"]] == described["internals"]["items"]["properties"]["name"]["enum"]
            for shown in answer["internals"]:
                assert list(np.array(shown["data"]).shape) == shown["shape"], shown["name"]
                assert len(shown["axes"]) == len(shown["shape"])
            predicted = (await client.post(f"/models/{name}/predict", json=example)).json()["predictions"]
            assert json.dumps(answer["predictions"]).count("label") == json.dumps(predicted).count("label")

    serving(tiny_models.root, scenario)
