from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from modelrepo.repository import ModelVersion, Repository
from service.codec.reader import Reader
from service.errors import InvalidRequest, ServiceError, UnsupportedMediaType
from tests import micro
from tests.server import ROOT

JSON = "application/json"


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> dict[str, ModelVersion]:
    root = tmp_path_factory.mktemp("kinds")
    for publish in (micro.publish_double, micro.publish_mean, micro.publish_table, micro.publish_text, micro.publish_picture):
        publish(root)
    repository = Repository(root)
    return {name: repository.open(name) for name in repository.models()}


@pytest.fixture(scope="module")
def readers(versions) -> dict[str, Reader]:
    return {name: reader(version) for name, version in versions.items()}


def reader(version: ModelVersion) -> Reader:
    return Reader(version, version.goldens()[0])


def decode(reader, request, content_type=JSON, query=""):
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return reader.decode(body, content_type, query, 100)


def changed(version: ModelVersion, **manifest) -> ModelVersion:
    return ModelVersion("m", 1, version.path, version.manifest.model_copy(update=manifest))


def test_each_model_takes_json_and_what_its_kind_of_data_comes_in(readers):
    assert {name: reader.media_types for name, reader in readers.items()} == {
        "double": (JSON,),
        "mean": (JSON,),
        "table": (JSON, "text/csv"),
        "text": (JSON, "text/plain", "text/csv"),
        "picture": (JSON, "image/png", "image/jpeg", "multipart/form-data"),
    }


def test_kinds_and_numbers_may_be_mixed_in_one_request(readers):
    read = decode(readers["text"], {"instances": ["hé", [5, 6], {"tokens": [7]}, {"text": "a"}], "top_k": 1})
    assert read.inputs["tokens"].tolist() == [[104, 195, 169], [5, 6, 0], [7, 0, 0], [97, 0, 0]]
    assert read.inputs["mask"].sum(axis=1).tolist() == [3, 2, 1, 1]
    read = decode(readers["table"], {"instances": [[1, 2, 3], {"age": 4}, [None, "Oslo", 5], {"features": [7, 1, 9]}]})
    np.testing.assert_array_equal(read.inputs["features"], [[1, 2, 3], [4, np.nan, np.nan], [np.nan, 1, 5], [7, 1, 9]])


@pytest.mark.parametrize("content_type", ["", JSON, "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"])
def test_json_is_json_under_the_names_that_clients_give_it(readers, content_type):
    assert decode(readers["double"], {"instances": [[1, 2]]}, content_type).inputs["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("name", "content_type", "message"),
    [
        ("double", "text/csv", "Content-Type 'text/csv' is not taken; this model takes application/json"),
        ("table", "text/plain", "'text/plain' is not taken; this model takes application/json, text/csv"),
        ("text", "image/png", "takes application/json, text/plain, text/csv"),
        ("picture", "image/gif", "takes application/json, image/png, image/jpeg, multipart/form-data"),
    ],
)
def test_another_content_type_names_those_the_model_takes(readers, name, content_type, message):
    with pytest.raises(UnsupportedMediaType, match=message):
        decode(readers[name], b"whatever", content_type)


def test_who_forgot_the_content_type_is_told_of_it(readers):
    with pytest.raises(InvalidRequest, match="the request is not valid.*for another form say Content-Type: text/csv"):
        decode(readers["table"], b"age,town\n1,Oslo\n", "application/x-www-form-urlencoded")
    with pytest.raises(InvalidRequest) as error:
        decode(readers["table"], {"instances": 5}, "")
    assert "Content-Type" not in str(error.value)


def test_options_come_in_the_body_or_in_the_query(readers):
    assert decode(readers["text"], {"instances": ["a"], "top_k": 1, "explain": True})[1:3] == (1, True)
    assert decode(readers["text"], {"instances": ["a"]}, query="top_k=1&explain=true")[1:3] == (1, True)
    assert decode(readers["text"], b"a", "text/plain", "top_k=2")[1:3] == (2, False)
    for request, query in (({"instances": [[1, 2]], "top_k": 1}, "top_k=2"), ({"instances": [[1, 2]], "top_k": 0}, "")):
        for attempt in (decode, lambda reader, body, query: reader.quick(json.dumps(body).encode(), JSON, query, 100)):
            with pytest.raises(InvalidRequest, match="top_k is"):
                attempt(readers["double"], request, query=query)


def test_what_takes_long_to_decode_is_left_for_a_thread_and_numbers_never_are(readers):
    def quick(name, body, content_type=JSON):
        return readers[name].quick(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type, "", 100)

    assert quick("picture", {"instances": [[[[1, 2, 3], [4, 5, 6]]]]}) is not None
    assert quick("picture", {"instances": ["iVBOR"]}) is None
    assert quick("picture", b"\x89PNG", "image/png") is None
    assert quick("text", {"instances": ["short"]}) is not None
    assert quick("text", {"instances": ["long " * 300]}) is None
    assert quick("text", {"instances": [[1] * 12] * 100}) is not None
    assert quick("table", {"instances": [{"age": 1}]}) is not None


def test_a_wrong_index_of_a_category_is_found_among_plain_numbers_too(readers):
    with pytest.raises(ServiceError, match="instance 0: column 'town' is 7"):
        readers["table"].quick(b'{"instances": [[1, 7, 3]]}', JSON, "", 100)


def test_a_model_whose_pixels_were_scaled_takes_no_picture_files(versions):
    version = versions["picture"]
    scaled = {"image": version.goldens()[0]["image"] / 255}
    with pytest.raises(UnsupportedMediaType, match=r"takes application/json: its pixels are no bytes \(they go up to 1\)"):
        decode(Reader(version, scaled), b"\x89PNG", "image/png")


def test_pictures_are_resized_where_training_did(versions, readers):
    manifest = versions["picture"].manifest
    lineage = manifest.lineage.model_copy(update={"config": {"source": {"image_size": [2, 3]}}})
    resizing = reader(changed(versions["picture"], lineage=lineage))
    example = {"instances": [readers["picture"].kind.instance(np.zeros((1, 4, 6), np.float32))]}
    assert decode(resizing, example).inputs["image"].shape == (1, 1, 2, 3)
    with pytest.raises(ServiceError, match="instance 0 is a picture of 4x6"):
        decode(readers["picture"], example)


def test_several_inputs_or_unknown_steps_leave_numbers_alone(versions):
    assert reader(changed(versions["table"], preprocessing=())).kind is None


def test_a_service_loads_the_tokenizer_and_pillow_only_where_a_model_takes_them():
    code = "import sys, service.__main__; sys.exit(', '.join({'tokenizers', 'PIL'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
