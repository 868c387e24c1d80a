"""`POST /models/{name}/predict` over models of every kind, through the whole application."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from openapi_spec_validator import validate
from PIL import Image

from service.api import examples
from service.codec import pictures
from service.codec.predictions import Predictions
from tests import micro


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Instead of those that other tests of the interfaces serve."""
    root = tmp_path_factory.mktemp("kinds")
    for publish in (micro.publish_mean, micro.publish_table, micro.publish_text, micro.publish_picture):
        publish(root)
    return root


@pytest.fixture
def png(tmp_path) -> Path:
    """Six pixels: 10, 20 … 60."""
    path = tmp_path / "six.png"
    Image.frombytes("L", (3, 2), bytes(range(10, 70, 10))).save(path)
    return path


PIXELS = dict(zip("abcdef", range(10, 70, 10), strict=True))


def test_a_table_is_sent_as_objects_or_as_csv(serve):
    async def scenario(client):
        expected = [{"values": {"age": 31, "town": 1, "pay": -1}}, {"values": {"age": -1, "town": -1, "pay": 2.5}}]
        objects = await client.post("/models/table/predict", json={"instances": [{"age": 31, "town": "Oslo"}, {"pay": 2.5}]})
        assert objects.json()["predictions"] == expected
        content = "pay,age,town\r\n,31,Oslo\r\n2.5,,Rome\r\n"
        table = await client.post("/models/table/predict", content=content, headers={"Content-Type": "text/csv"})
        assert table.json() == objects.json()

    serve(scenario)


def test_a_text_is_sent_as_json_plain_or_as_csv(serve):
    async def scenario(client):
        answers = []
        for content, content_type in (
            (json.dumps({"instances": ["hé!"]}), "application/json"),
            ("hé!\n", "text/plain; charset=utf-8"),
            ("text\nhé!\n", "text/csv"),
        ):
            path = "/models/text/predict?top_k=1"
            response = await client.post(path, content=content.encode(), headers={"Content-Type": content_type})
            assert response.status_code == 200, response.text
            answers.append(response.json())
        assert answers[0] == answers[1] == answers[2]
        assert [len(prediction["probabilities"]) for prediction in answers[0]["predictions"]] == [1]

    serve(scenario)


def test_a_picture_is_sent_as_a_file_or_several_in_a_form(serve, png):
    async def scenario(client):
        path = "/models/picture/predict"
        one = await client.post(path, content=png.read_bytes(), headers={"Content-Type": "image/png"})
        assert one.json()["predictions"] == [{"values": PIXELS}]
        form = await client.post(path, files=[("image", ("a.png", png.read_bytes()))] * 2, data={"explain": "true"})
        assert form.json()["predictions"] == [{"values": PIXELS}] * 2
        assert "explanation" in form.json()

    serve(scenario)


def test_pictures_are_decoded_aside_while_others_are_answered(serve, png, monkeypatch):
    others_answered = threading.Event()
    opened = pictures._opened

    def held(where, data):
        assert others_answered.wait(20)
        return opened(where, data)

    monkeypatch.setattr(pictures, "_opened", held)

    async def scenario(client):
        picture = asyncio.ensure_future(
            client.post("/models/picture/predict", content=png.read_bytes(), headers={"Content-Type": "image/png"})
        )
        assert (await client.post("/models/mean/predict", json={"instances": [[[1]]]})).status_code == 200
        assert not picture.done()
        others_answered.set()
        assert (await picture).json()["predictions"] == [{"values": PIXELS}]

    serve(scenario)


@pytest.mark.parametrize(
    ("path", "content_type", "content", "status", "message"),
    [
        ("/models/mean/predict", "text/csv", b"1", 415, "this model takes application/json"),
        ("/models/picture/predict", "image/png", b"GIF89a", 415, "the body is GIF; send a PNG or JPEG"),
        ("/models/picture/predict", "image/png", b"\x89PNG\r\n\x1a\n", 422, "the body is a broken picture"),
        ("/models/picture/predict", "multipart/form-data; boundary=b", b"--b--\r\n", 400, "the form has no file"),
        ("/models/table/predict", "text/csv", b"age\nold\n", 400, "line 2: column 'age' takes a number"),
        ("/models/table/predict?top_k=1", "text/csv", b"age\n1\n", 400, "top_k is for labels"),
        ("/models/table/predict?topk=1", "text/csv", b"age\n1\n", 400, "unknown parameter 'topk'"),
        ("/models/table/predict", "text/csv", b"age\n" + b"1\n" * 5, 413, "more than 3 rows"),
        ("/models/text/predict", "text/plain", b"\xff", 400, "0xff is not UTF-8"),
    ],
)
def test_a_body_that_cannot_be_read_gets_its_status_and_a_message(serve, path, content_type, content, status, message):
    async def scenario(client):
        response = await client.post(path, content=content, headers={"Content-Type": content_type})
        assert (response.status_code, list(response.json())) == (status, ["error"])
        assert message in response.json()["error"]

    serve(scenario, max_queue_rows=3)


def test_an_explanation_comes_only_where_asked_for(serve):
    async def scenario(client):
        for path, options in (("/models/mean/predict?explain=true", {}), ("/models/mean/predict", {"explain": True})):
            explained = (await client.post(path, json={"instances": [[[1]]], **options})).json()
            assert explained["explanation"]["artifact"] == "model.onnx"
        assert "explanation" not in (await client.post("/models/mean/predict", json={"instances": [[[1]]]})).json()

    serve(scenario)


def test_the_document_is_valid_and_its_examples_of_every_type_give_the_answer_it_shows(serve):
    async def scenario(client):
        document = (await client.get("/openapi.json")).json()
        validate(document)
        tried = []
        for model in client.app.registry.models():
            path = f"/models/{model.name}/predict"
            operation = document["paths"][path]["post"]
            expected = operation["responses"]["200"]["content"]["application/json"]["schema"]["example"]
            content = operation["requestBody"]["content"]
            assert tuple(content) == model.reader.media_types
            for media_type, described in content.items():
                if (example := described["schema"].get("example")) is None:
                    continue
                body = example if isinstance(example, str) else json.dumps(example)
                response = await client.post(path, content=body.encode(), headers={"Content-Type": media_type})
                assert response.json() == expected, (path, media_type)
                tried.append((model.name, media_type, example if media_type != "application/json" else example["instances"][0]))
        assert ("table", "application/json", {"age": 31.0, "town": "Oslo", "pay": None}) in tried
        assert ("table", "text/csv", "age,town,pay\n31.0,Oslo,\n") in tried
        assert ("text", "application/json", "hé") in tried, "the first golden row is no text, the second is"
        assert ("text", "text/plain", "hé") in tried
        assert any(name == "picture" and "b64" in example for name, _, example in tried)

    serve(scenario)


def test_of_several_versions_the_document_describes_the_newest(serve, monkeypatch):
    async def scenario(client):
        (model, *_) = client.app.registry.models()

        class Version:
            def __init__(self, version):
                self.version, self.predictions = version, Predictions(model.name, version, model.manifest.task)

            def __getattr__(self, name):
                return getattr(model, name)

        older, newer = Version("9"), Version("10")
        monkeypatch.setattr(client.app.registry, "models", lambda: [newer, older])
        paths = (await client.get("/openapi.json")).json()["paths"]
        response = paths[f"/models/{model.name}/predict"]["post"]["responses"]["200"]
        assert response["content"]["application/json"]["schema"]["example"]["model_version"] == "10"

    serve(scenario)


def test_copy_paste_calls_survive_quotes_and_missing_values(serve, monkeypatch):
    async def scenario(client):
        by_name = {model.name: model for model in client.app.registry.models()}
        text = examples.copy_paste_calls([by_name["table"]], "http://127.0.0.1:8000")
        assert "np.nan" in text
        assert "NaN" not in text
        monkeypatch.setattr(by_name["text"].reader.kind, "instance", lambda row: "it's")
        quoted = examples.copy_paste_calls([by_name["text"]], "http://127.0.0.1:8000")
        assert """-d '{"instances": ["it'"'"'s"]}'""" in quoted

    serve(scenario)
