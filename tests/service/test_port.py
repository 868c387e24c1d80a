"""The port of gRPC, before anything else is done."""

from __future__ import annotations

import socket

import pytest

from service import port
from service.settings import Settings, SettingsError


def test_a_port_that_is_taken_or_not_its_own_is_said_before_any_model_is_opened(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"cannot listen on 127.0.0.1:{taken} .*give another --grpc-port"):
            port.reserve_rpc(Settings(repository=tmp_path, grpc_port=taken))
    with pytest.raises(ValueError, match="gRPC needs a port of its own"):
        Settings(repository=tmp_path, port=8001, grpc_port=8001)
    monkeypatch.setattr(port, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"--grpc-port needs grpc, which is not installed: pip install 'quartet\[grpc\]'"):
        port.reserve_rpc(Settings(repository=tmp_path, grpc_port=0))
