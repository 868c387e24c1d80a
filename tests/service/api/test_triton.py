"""Metrics under Triton's names, over the whole application."""

from __future__ import annotations

import re

from service.gpu import READINGS, Gpu

PREDICT = "/models/double/predict"


def values(text, name):
    """A metric's values by their labels."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return {frozenset(re.findall(r'(\w+)="([^"]*)"', labels)): float(value) for labels, value in found}


def labels(**more):
    return frozenset({"model": "double", "version": "1", **more}.items())


def test_requests_failures_times_and_gpus_have_tritons_names_and_types(serve):
    async def scenario(client):
        for rows in ([[1, 2]], [[1, 2]] * 3, [[1, 2]]):
            assert (await client.post(PREDICT, json={"instances": rows})).status_code == 200
        assert (await client.post(PREDICT, json={"instances": [[1]]})).status_code == 400
        again = {"instances": [[5, 6]]}
        headers = {"Quartet-Timeout-Ms": "0.000001"}
        client.app.registry.find("double").batcher._idle.clear()  # as if it ran something
        assert (await client.post(PREDICT, json=again, headers=headers)).status_code in (429, 504)
        client.app.telemetry.metrics.gpus.found = [Gpu(0, "GPU-1", {READINGS[0]: 0.5})]
        text = (await client.get("/metrics")).text
        assert values(text, "nv_inference_request_success")[labels()] == 3
        assert values(text, "nv_inference_count")[labels()] == 4
        assert values(text, "nv_inference_exec_count")[labels()] == 2
        failures = {
            dict(key)["reason"]: value
            for key, value in values(text, "nv_inference_request_failure").items()
            if ("model", "double") in key
        }
        assert failures == {"REJECTED": 1, "CANCELED": 0, "BACKEND": 0, "OTHER": 1}
        for stage in ("request", "queue", "compute_input", "compute_infer"):
            assert values(text, f"nv_inference_{stage}_duration_us")[labels()] > 0
        assert values(text, "nv_inference_pending_request_count")[labels()] == 0
        assert values(text, "nv_gpu_utilization")[frozenset({("gpu_uuid", "GPU-1")})] == 0.5
        assert values(text, "nv_cache_num_hits_per_model") == {labels(): 1}
        assert values(text, "nv_cache_num_misses_per_model") == {labels(): 3}
        assert values(text, "nv_cache_hit_duration_per_model")[labels()] > 0
        assert "# TYPE nv_inference_request_success counter\n" in text
        assert "# TYPE nv_inference_pending_request_count gauge\n" in text
        assert "untyped" not in text

    serve(scenario, triton_metrics=True, response_cache_bytes="double=100000")


def test_unless_asked_for_there_are_none(serve):
    async def scenario(client):
        assert "nv_" not in (await client.get("/metrics")).text

    serve(scenario)
