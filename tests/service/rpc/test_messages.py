"""inference.proto: what lies beside it was made from it, and it says what the standard client says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2

from service.rpc import messages
from tests.service.rpc.conftest import SERVICE

FOLDER = Path(messages.__file__).parent


def test_making_the_messages_again_changes_nothing(tmp_path):
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(FOLDER), f"--descriptor_set_out={tmp_path / 'd'}"]
    subprocess.run([*command, f"--pyi_out={tmp_path}", "inference.proto"], check=True)
    made, there = (FileDescriptorSet.FromString(path.read_bytes()) for path in (tmp_path / "d", FOLDER / "inference.binpb"))
    assert made == there, "run `make proto`"
    assert (tmp_path / "inference_pb2.pyi").read_text() == (FOLDER / "messages.pyi").read_text(), "run `make proto`"


def test_every_message_field_and_method_is_the_standard_clients():
    def same(mine, theirs):
        for field in mine.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field.full_name
            assert (field.containing_oneof is None) == (other.containing_oneof is None)
            if field.type == FieldDescriptor.TYPE_ENUM:
                assert [(v.name, v.number) for v in field.enum_type.values] == [(v.name, v.number) for v in other.enum_type.values]
        for nested in mine.nested_types:
            same(nested, theirs.nested_types_by_name[nested.name])

    ours = messages.DESCRIPTOR
    for name, message in ours.message_types_by_name.items():
        known = service_pb2.DESCRIPTOR.message_types_by_name.get(name) or model_config_pb2.DESCRIPTOR.message_types_by_name[name]
        same(message, known)
    for method in ours.services_by_name["GRPCInferenceService"].methods:
        other = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            other.input_type.full_name,
            other.output_type.full_name,
        )
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)


def test_a_client_can_learn_them_from_the_server(channel):
    known = ProtoReflectionDescriptorDatabase(channel)
    assert set(known.get_services()) >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
    (file,) = FileDescriptorSet.FromString((FOLDER / "inference.binpb").read_bytes()).file
    assert known.FindFileContainingSymbol("inference.GRPCInferenceService") == file
    assert known.FindFileContainingSymbol("grpc.health.v1.Health").package == "grpc.health.v1"


def test_what_the_protocol_has_and_quartet_has_not_is_unimplemented(channel):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(SERVICE + "SystemSharedMemoryStatus")(b"")
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
