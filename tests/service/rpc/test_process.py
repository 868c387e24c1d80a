"""gRPC of a real service: its port, its workers, and what a signal does to it."""

from __future__ import annotations

import re
import signal
import socket

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelrepo.repository import Repository
from service import port
from service.settings import Settings, SettingsError
from tests import micro
from tests.server import serving
from tests.service.rpc.conftest import given

ROW = np.array([[1.5, -2]], np.float32)


def address(server):
    return next(found[1] for line in server.log if (found := re.search(r"gRPC on (\S+)", line)))


def test_several_workers_are_one_service_and_a_signal_is_told_while_it_still_answers(tmp_path):
    micro.publish_double(tmp_path)
    with serving(tmp_path, "--grpc-port", "0", "--workers", "2", "--drain-delay", "0.5") as server:
        next(line for line in iter(server.process.stderr.readline, "") if "serving 1 models" in line)  # of the other worker

        def asked(question):
            """Over connections of their own, which either worker may get."""
            found = []
            for number in range(12):
                with triton.InferenceServerClient(
                    address(server), channel_args=[("grpc.use_local_subchannel_pool", 1), ("number", number)]
                ) as client:
                    found.append(question(client))
            return found

        assert asked(lambda client: client.is_server_ready()) == [True] * 12
        asked(lambda client: client.infer("double", [given("x", ROW)]))
        counts = asked(lambda client: client.get_inference_statistics("double").model_stats[0].inference_stats.success.count)
        assert counts == [12] * 12
        micro.publish_double(tmp_path)
        with triton.InferenceServerClient(address(server)) as client:
            client.load_model("double")
        newest = str(Repository(tmp_path).versions("double")[-1])
        assert asked(lambda client: client.get_model_metadata("double").versions[-1]) == [newest] * 12

        with grpc.insecure_channel(address(server)) as channel, triton.InferenceServerClient(address(server)) as client:
            health = health_pb2_grpc.HealthStub(channel)
            watched = health.Watch(health_pb2.HealthCheckRequest())
            while next(watched).status != health_pb2.HealthCheckResponse.SERVING:
                pass
            server.process.send_signal(signal.SIGTERM)
            assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not client.is_server_ready()
            np.testing.assert_array_equal(client.infer("double", [given("x", ROW)]).as_numpy("logits"), ROW * 2)
            assert list(watched) == []
            assert server.process.wait(30) == 0
            assert "Traceback" not in server.process.stderr.read()


def test_a_port_that_is_taken_or_not_its_own_is_said_before_any_model_is_opened(models, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"cannot listen on 127.0.0.1:{taken} .*give another --grpc-port"):
            port.reserve_rpc(Settings(repository=models, grpc_port=taken))
    with pytest.raises(ValueError, match="gRPC needs a port of its own"):
        Settings(repository=models, port=8001, grpc_port=8001)
    monkeypatch.setattr(port, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"--grpc-port needs grpc, which is not installed: pip install 'quartet\[grpc\]'"):
        port.reserve_rpc(Settings(repository=models, grpc_port=0))
