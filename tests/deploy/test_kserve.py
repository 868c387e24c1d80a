"""The manifests for KServe: what its types know, and a server started as they say answers the V2 protocol."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request

import kubernetes_validate
import yaml

from export import layouts
from modelrepo.repository import Repository
from tests import micro
from tests.deploy import custom_resources
from tests.deploy.chart import DEPLOY
from tests.deploy.pod_security import violations
from tests.server import ROOT, Server

RUNTIME, SERVICE = (
    yaml.safe_load((DEPLOY / "kserve" / f"{name}.yaml").read_text()) for name in ("serving-runtime", "inference-service")
)


def test_the_manifests_are_what_kserve_and_kubernetes_know():
    assert [*custom_resources.faults(RUNTIME), *custom_resources.faults(SERVICE)] == []
    spec = {"containers": RUNTIME["spec"]["containers"], "volumes": RUNTIME["spec"]["volumes"]}
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, "1.30", strict=True)
    assert violations(spec) == []


def test_the_service_names_the_runtime_and_stops_in_time():
    model = SERVICE["spec"]["predictor"]["model"]
    (taken,) = RUNTIME["spec"]["supportedModelFormats"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"] == {"name": taken["name"], "version": taken["version"]}
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    arguments = " ".join(RUNTIME["spec"]["containers"][0]["args"])
    delay, drain = (int(re.search(rf"--drain-{name}=(\d+)", arguments)[1]) for name in ("delay", "seconds"))
    assert SERVICE["spec"]["predictor"]["terminationGracePeriodSeconds"] == delay + drain + 5


def test_a_server_started_as_the_runtime_says_answers_for_a_model_copied_for_it(tmp_path):
    micro.publish_double(tmp_path / "models")
    layouts.copy(Repository(tmp_path / "models").open("double"), "kserve", tmp_path / "mnt")
    (container,) = RUNTIME["spec"]["containers"]
    place = {
        "--repository=/mnt/models": f"--repository={tmp_path / 'mnt'}",
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=8080": "--port=0",
        "--grpc-port=9000": "--grpc-port=0",
    }
    assert set(place) <= set(container["args"])
    command = [sys.executable, *container["command"][1:], *(place.get(argument, argument) for argument in container["args"])]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            server = Server(process)
            for probe in ("readinessProbe", "livenessProbe"):
                with urllib.request.urlopen(server.url + container[probe]["httpGet"]["path"], timeout=30) as answer:
                    assert answer.status == 200
            body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
            with urllib.request.urlopen(f"{server.url}/v2/models/double/infer", json.dumps(body).encode(), timeout=30) as answer:
                assert json.load(answer)["outputs"][0]["data"] == [2, 4]
        finally:
            process.kill()
