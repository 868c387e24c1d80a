"""KServe's own client against a real server."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests import micro
from tests.server import serving

kserve = pytest.importorskip("kserve", reason="kserve is no dependency of the tests: this file says how to run it")
infer_type = pytest.importorskip("kserve.protocol.infer_type")

# It brings Kubernetes' client and twenty other packages, some at versions that others here may not want. To run this file:
#   python -m venv /tmp/kserve && /tmp/kserve/bin/pip install kserve
#   echo "$(python -c 'import site; print(site.getsitepackages()[0])')" > /tmp/kserve/lib/python3.*/site-packages/quartet.pth
#   /tmp/kserve/bin/python -m pytest tests/service/test_kserve_client.py

ROW = np.array([[1.5, -2]], np.float32)
MANY = np.arange(1200, dtype=np.float32).reshape(600, 2)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    with serving(root) as running:
        yield running.url


@pytest.fixture
def call(url):
    """Call a method of the client with the server's address."""

    def run(method, *arguments, **options):
        async def main():
            client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0))
            try:
                return await getattr(client, method)(url, *arguments, **options)
            finally:
                await client.close()

        return asyncio.run(main())

    return run


def request(array, binary, **options):
    tensor = kserve.InferInput("x", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return kserve.InferRequest("double", [tensor], **options)


def test_health_is_understood(call):
    assert call("is_server_live") is True
    assert call("is_server_ready") is True
    assert call("is_model_ready", "double") is True
    assert call("is_model_ready", "nobody") is False


@pytest.mark.parametrize("array", [ROW, MANY], ids=["a row", "many rows, which come back compressed"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "json in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "json out"])
def test_tensors_go_in_and_out(call, array, binary_in, binary_out):
    parameters = {"binary_data_output": binary_out}
    headers = {}
    response = call(
        "infer", request(array, binary_in, request_id="7", parameters=parameters), model_name="double", response_headers=headers
    )
    assert (response.model_name, response.id) == ("double", "7")  # the client itself forgets the version
    np.testing.assert_array_equal(response.outputs[0].as_numpy(), array * 2)
    assert headers.get("content-encoding") == ("gzip" if array is MANY else None)


def test_an_error_carries_our_message(call):
    with pytest.raises(Exception, match="unknown output 'z'"):
        call("infer", request(ROW, True, request_outputs=[infer_type.RequestedOutput("z")]), model_name="double")
