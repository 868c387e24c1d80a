from __future__ import annotations

import numpy as np
import pytest

from modelrepo.repository import Repository
from modelrepo.tasks import Multiclass
from tests import micro


def test_a_card_tells_task_signature_and_what_serves(serve):
    async def scenario(client):
        card = (await client.get("/models/mean/card")).json()
        assert (card["name"], card["version"], card["versions"], card["family"]) == ("mean", "1", ["1"], "micro")
        assert card["task"]["targets"] == ["mean"]
        assert card["signature"]["inputs"][0]["shape"][1] == {"axis": "length", "min": 1, "opt": 4, "max": 12}
        assert card["takes"] == "numbers"
        assert card["observed"] == {"sequence": [0.0, 11.0]}
        assert card["max_rows"] == 4096
        assert (card["report"], card["internals"]) == (False, False)
        (way,) = card["ways"]
        assert way["serves"] is True
        assert (way["artifact"], way["provider"], way["precision"]) == ("model.onnx", "onnxruntime-cpu", "fp32")
        assert (way["max_error"], way["gate_used"], way["agreement"], way["metric_loss"]) == (0.0, 0.0, 1.0, 0.0)
        assert (way["one_row_ms"], way["rows_per_second"]) == (None, None)
        assert (await client.get("/models/mean/versions/1/card")).json() == card

    serve(scenario)


def test_its_example_is_a_request_that_works(serve):
    async def scenario(client):
        for model in ("double", "mean"):
            example = (await client.get(f"/models/{model}/card")).json()["example"]
            assert (await client.post(f"/models/{model}/predict", json=example)).status_code == 200

    serve(scenario)


@pytest.mark.parametrize(
    ("publish", "takes"), [(micro.publish_table, "table"), (micro.publish_picture, "picture"), (micro.publish_text, "text")]
)
def test_a_card_says_what_a_row_may_be_besides_numbers(serve, tmp_path, publish, takes):
    publish(tmp_path, "own")

    async def scenario(client):
        card = (await client.get("/models/own/card")).json()
        assert card["takes"] == takes
        assert (await client.post("/models/own/predict", json=card["example"])).status_code == 200

    serve(scenario, repository=tmp_path)


def test_a_way_that_was_passed_over_says_why(serve, tmp_path):
    with Repository(tmp_path).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        (staging.path / "model.plan").write_bytes(b"an engine of another machine")
        inputs = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
        engine = micro.engine(staging.path / "model.plan")
        micro.finish(staging, micro.DOUBLE, Multiclass(labels=("a", "b")), inputs, micro.double(inputs), extra=(engine,))

    async def scenario(client):
        engine, plain = (await client.get("/models/double/card")).json()["ways"]
        assert (engine["serves"], plain["serves"]) == (False, True)
        assert engine["skipped"]
        assert (engine["max_error"], engine["metric"]) == (None, None)

    serve(scenario, repository=tmp_path, device="auto")


def test_the_report_is_served_as_it_is_and_may_run_nothing(serve, tmp_path):
    with Repository(tmp_path).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        (staging.path / "report.html").write_text("<!doctype html><style>p{color:red}</style><p>proof</p>")
        inputs = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
        micro.finish(staging, micro.DOUBLE, Multiclass(labels=("a", "b")), inputs, micro.double(inputs))

    async def scenario(client):
        assert (await client.get("/models/double/card")).json()["report"] is True
        for path in ("/models/double/report", "/models/double/versions/1/report"):
            response = await client.get(path)
            assert response.text.endswith("<p>proof</p>")
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "sandbox" in policy
            assert "script" not in policy
        (tmp_path / "double" / "1" / "report.html").unlink()
        response = await client.get("/models/double/report")
        assert (response.status_code, response.json()) == (
            404,
            {"error": "report.html of double:1 cannot be read any more (No such file or directory)"},
        )

    serve(scenario, repository=tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/models/triple/card", "no model 'triple'; served are double, mean"),
        ("/models/double/versions/9/card", "no version '9'"),
        ("/models/double/versions/1/report", "double:1 was published without a report.html"),
    ],
)
def test_what_there_is_not_is_named(serve, path, message):
    async def scenario(client):
        response = await client.get(path)
        assert response.status_code == 404
        assert message in response.json()["error"]

    serve(scenario)
