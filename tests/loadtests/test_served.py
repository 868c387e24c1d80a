"""Requests made from nothing but what a real server says about its models."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loadtests.calls import golden_predictions, infer_request, predict_request, read_answer, taken_apart
from loadtests.served import NotServed, ask, calm_calls, describe, discover
from modelrepo.repository import Repository
from quartet_client import Metadata
from tests import micro


@pytest.fixture(scope="module")
def served(url):
    return {model.name: model for model in discover(url)}


def requests(model):
    return {
        "v2-json": model.infer_requests(binary=False),
        "v2-binary": model.infer_requests(binary=True),
        "predict": model.predict_requests(),
        "text": model.text_requests(),
        "images": model.image_requests(),
    }


@pytest.mark.parametrize("name", ["double", "mean", "table", "text", "picture"])
def test_every_interface_that_a_model_has_answers_and_answers_the_same_again(url, served, name):
    kinds = {kind for kind, sent in requests(served[name]).items() if sent}
    assert kinds == {"v2-json", "v2-binary", "predict"} | (
        {"text"} if name == "text" else {"images"} if name == "picture" else set()
    )
    for kind in kinds:
        calls = calm_calls(url, served[name], requests(served[name])[kind])
        assert len(calls) >= 2, kind
        assert all(call.judge(ask(url, call.request)) == ("right", "1") for call in calls)


def test_an_answer_to_another_row_is_not_right(url, served):
    first, second = calm_calls(url, served["double"], served["double"].infer_requests(binary=False)[:2])
    assert first.judge(ask(url, second.request))[0] == "lost"
    first, second = calm_calls(url, served["double"], served["double"].predict_requests()[:2])
    assert first.judge(ask(url, second.request))[0] == "lost"


def test_rows_keep_to_the_documented_limits_and_have_different_lengths(served):
    rows = served["mean"].rows(40)
    lengths = {row["sequence"].shape[1] for row in rows}
    assert min(lengths) >= micro.LENGTH.min
    assert max(lengths) <= micro.LENGTH.max
    assert len(lengths) > 3
    tokens = np.concatenate([row["tokens"].ravel() for row in served["text"].rows(40)])
    assert tokens.min() >= 0


def test_the_mask_is_left_to_the_server(served):
    assert [each.name for each in served["mean"].inputs] == ["sequence"]


def test_lines_of_a_table_have_all_columns_and_known_categories(served):
    lines = [json.loads(taken_apart(request)[2])["instances"][0] for request in served["table"].predict_requests()]
    assert {tuple(line) for line in lines} == {("age", "town", "pay")}
    assert {line["town"] for line in lines} == {"Bergen", "Oslo", "Å, Lofoten"}


def test_golden_rows_as_predictions_are_what_the_server_answers(url, root):
    for name in ("double", "mean"):
        calls = golden_predictions(Repository(root), name, 1)
        assert calls
        assert {call.judge(ask(url, call.request)) for call in calls} == {("right", "1")}


def test_a_row_that_the_model_refuses_is_left_out_and_another_error_is_an_error(url, served):
    long = predict_request("mean", {"sequence": np.zeros((1, 99, 1), np.float32)})
    good = infer_request("mean", served["mean"].rows(1)[0])
    assert [call.request for call in calm_calls(url, served["mean"], [long, good])] == [good]
    with pytest.raises(NotServed, match="model 'mean' answers 404 in a calm moment"):
        calm_calls(url, served["mean"], [infer_request("nobody", {"x": np.zeros((1, 1, 1), np.float32)})])


def test_what_is_no_quartet_is_said_to_be_none(url):
    with pytest.raises(NotServed, match="does not answer"):
        discover("http://127.0.0.1:9")
    with pytest.raises(NotServed, match="no such path"):
        discover(f"{url}/elsewhere")
    with pytest.raises(NotServed, match="does not describe model 'm'"):
        describe(Metadata("m", ("1",), "onnx_onnxv1", (), (), {}), {})


def test_a_request_is_taken_apart_into_what_clients_ask_for(served):
    path, headers, body = taken_apart(served["double"].predict_requests()[0])
    assert path == "/models/double/predict"
    assert headers == {"Content-Type": "application/json"}
    assert list(json.loads(body)) == ["instances"]


def test_labels_are_compared_in_whatever_order_they_stand(url, served):
    response = ask(url, served["double"].predict_requests()[0])
    _, outputs = read_answer(response)
    assert sum(outputs.values()) == pytest.approx(1)
