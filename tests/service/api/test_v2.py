from __future__ import annotations

import pytest

from service.api import examples


def test_server_metadata_with_and_without_a_slash_and_no_redirect(serve):
    async def scenario(client):
        for path in ("/v2", "/v2/"):
            response = await client.get(path)
            assert response.status_code == 200
            body = response.json()
            assert body["name"] == "quartet"
            assert body["extensions"] == ["binary_tensor_data", "model_repository", "schedule_policy", "statistics"]

    serve(scenario)


def test_health_bodies_suit_every_client(serve):
    async def scenario(client):
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v2/health/ready")).json() == {"live": True, "ready": True}
        assert (await client.get("/v2/models/double/ready")).json() == {"name": "double", "ready": True}
        assert (await client.get("/v2/models/double/versions/1/ready")).json()["ready"] is True

    serve(scenario)


def test_model_metadata_is_the_signature_with_dynamic_axes_as_minus_one(serve):
    async def scenario(client):
        body = (await client.get("/v2/models/mean")).json()
        assert body["versions"] == ["1"]
        assert body["platform"] == "onnx_onnxv1"
        assert [(t["name"], t["datatype"], t["shape"]) for t in body["inputs"]] == [
            ("sequence", "FP32", [-1, -1, 1]),
            ("mask", "BOOL", [-1, -1]),
        ]
        assert body["inputs"][1]["parameters"]["optional"] is True
        assert body["outputs"] == [{"name": "values", "datatype": "FP32", "shape": [-1, 1], "parameters": {}}]
        assert body["parameters"]["provider"] == "onnxruntime-cpu"
        assert (await client.get("/v2/models/mean/versions/1")).json() == body
        assert (await client.get("/v2/models")).json() == {"models": ["double", "mean"]}

    serve(scenario)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v2/models/triple", 404, "no model 'triple'; served are double, mean"),
        ("GET", "/v2/models/double/versions/9/ready", 404, "no version '9'"),
        ("GET", "/v3", 404, "no such path"),
        ("POST", "/v2/models/double/classify", 404, "no such path"),
        ("POST", "/v2/health/live", 405, "POST is not for this path: send GET"),
        ("GET", "/v2/models/%2e%2e%2fetc", 404, "no"),
        ("GET", "/v2/models/triple/stats", 404, "no model 'triple'"),
        ("GET", "/v2/models/double/versions/9/stats", 404, "no version '9'"),
        ("POST", "/v2/models/stats", 405, "POST is not for this path: send GET"),
        ("DELETE", "/v2", 405, "DELETE is not for this path: send GET"),
        ("GET", "/v2//", 404, "no such path"),
        ("GET", "/v2/health/live/", 404, "no such path"),
        ("GET", "/v2/models/", 404, "no such path"),
        ("GET", "/v2/models/double/", 404, "no such path"),
        ("POST", "/v2/models/double/infer/", 404, "no such path"),
        ("POST", "/models/double/predict/", 404, "no such path"),
        ("OPTIONS", "/v2/models/double/infer", 405, "OPTIONS is not for this path: send POST"),
    ],
)
def test_errors_of_the_other_paths_have_the_same_body(serve, method, path, status, message):
    async def scenario(client):
        response = await client.request(method, path)
        assert response.status_code == status
        assert list(response.json()) == ["error"]
        assert message in response.json()["error"]

    serve(scenario)


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/double", "/metrics"])
def test_where_get_is_allowed_so_is_head(serve, path):
    async def scenario(client):
        assert (await client.head(path)).status_code == 200

    serve(scenario)


def test_statistics_have_the_published_form_before_and_after_the_first_request(serve):
    none = {"count": 0, "ns": 0}
    names = ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"]

    async def scenario(client):
        (untouched,) = (await client.get("/v2/models/double/stats")).json()["model_stats"]
        assert untouched == {
            "name": "double",
            "version": "1",
            "last_inference": 0,
            "inference_count": 0,
            "execution_count": 0,
            "inference_stats": dict.fromkeys(names, none),
            "batch_stats": [],
        }
        assert (await client.post("/models/double/predict", json={"instances": [[1, 2]] * 3})).status_code == 200
        assert (await client.post("/models/double/predict", json={"instances": []})).status_code == 400
        (used,) = (await client.get("/v2/models/double/versions/1/stats")).json()["model_stats"]
        assert (used["inference_count"], used["execution_count"]) == (3, 1)
        assert [used["inference_stats"][name]["count"] for name in names] == [1, 1, 1, 1, 1, 1, 0, 0]
        assert used["inference_stats"]["success"]["ns"] > used["inference_stats"]["compute_infer"]["ns"] > 0
        (batch,) = used["batch_stats"]
        assert batch["batch_size"] == 3
        assert batch["compute_infer"] == used["inference_stats"]["compute_infer"]
        both = (await client.get("/v2/models/stats")).json()["model_stats"]
        assert [model["name"] for model in both] == ["double", "mean"]

    serve(scenario)


@pytest.mark.parametrize("order", ["load", "unload", "rollout/start", "rollout/change", "rollout/promote", "rollout/rollback"])
def test_the_document_says_how_an_order_can_fail(serve, order):
    async def scenario(client):
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert {"403", "404", "409", "422", "503"} <= set(paths[f"/v2/repository/models/{{model}}/{order}"]["post"]["responses"])

    serve(scenario)


def test_the_document_has_both_inference_paths_of_every_model_and_its_examples_work(serve):
    async def scenario(client):
        paths = (await client.get("/openapi.json")).json()["paths"]
        for model in ("double", "mean"):
            for path in (f"/models/{model}/predict", f"/v2/models/{model}/infer"):
                operation = paths[path]["post"]
                assert {"200", "400", "404", "413", "422", "429", "503"} <= set(operation["responses"])
                response = await client.post(
                    path, json=operation["requestBody"]["content"]["application/json"]["schema"]["example"]
                )
                expected = operation["responses"]["200"]["content"]["application/json"]["schema"]["example"]
                assert response.status_code == 200
                assert response.json() == expected

    serve(scenario)


def test_the_documentation_page_needs_no_other_server(serve):
    async def scenario(client):
        page = (await client.get("/docs")).text
        assert "http" not in page.replace("http://www.w3.org", "")
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
            path = next(part for part in page.replace("'", '"').split('"') if part.endswith(asset))
            assert (await client.get(path)).status_code == 200

    serve(scenario)


def test_copy_paste_calls_name_the_shortest_example(serve):
    async def scenario(client):
        text = examples.copy_paste_calls(client.app.registry.models(), "http://127.0.0.1:8000")
        assert "curl -s http://127.0.0.1:8000/models/mean/predict" in text
        assert "double" not in text
        assert "tritonclient.http" in text
        assert "http://127.0.0.1:8000/docs" in text

    serve(scenario)
