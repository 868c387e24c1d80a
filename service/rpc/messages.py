"""The messages of inference.proto, made when this is imported from what protoc understood of it: `make proto` writes both.

They lie in a pool of their own. protobuf's common one takes a name once, and a program that uses Triton's or KServe's client has
theirs in it, which are called the same.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

(_file,) = FileDescriptorSet.FromString(Path(__file__).with_name("inference.binpb").read_bytes()).file
_pool = DescriptorPool()
_pool.AddSerializedFile(_file.SerializeToString())
DESCRIPTOR = _pool.FindFileByName(_file.name)

globals().update({name: GetMessageClass(message) for name, message in DESCRIPTOR.message_types_by_name.items()})
globals().update({name: EnumTypeWrapper(enum) for name, enum in DESCRIPTOR.enum_types_by_name.items()})
