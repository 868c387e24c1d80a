"""Everything else that the protocol has over gRPC: health, metadata, statistics and the repository, as over HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from modelrepo.tensors import TensorSpec
from service import errors, identity
from service.access import GONE, AccessLog
from service.api import repository, v2
from service.api.head import Headers
from service.codec import tensor
from service.errors import ServiceError, Unavailable, UnknownModel
from service.keys.credentials import presented
from service.keys.file import Scope
from service.keys.guard import Guard
from service.registry import Registry
from service.rollout.rollouts import Rollouts
from service.rpc import codec, messages
from service.rpc.call import PATH, Context, metadata
from service.rpc.status import refuse
from service.siblings import Siblings

log = logging.getLogger("quartet.rpc")

M = TypeVar("M", bound=Message)
Method = Callable[[bytes, Context], Awaitable[bytes]]


class Operations:
    """Each method takes a request message and gives the answer, or raises what HTTP would answer. They mirror inference.proto."""

    def __init__(
        self,
        registry: Registry,
        rollouts: Rollouts,
        siblings: Siblings,
        controlled: bool,
        guard: Guard | None,
        access: AccessLog | None,
    ) -> None:
        """Loading and unloading are refused unless `controlled`."""
        self._registry = registry
        self._rollouts = rollouts
        self._guard = guard
        self._siblings = siblings
        self._controlled = controlled
        self._access = access

    def methods(self) -> Mapping[str, Method]:
        """By the name that inference.proto gives them."""
        return {
            "ServerLive": self._method(messages.ServerLiveRequest, self.server_live),
            "ServerReady": self._method(messages.ServerReadyRequest, self.server_ready),
            "ModelReady": self._method(messages.ModelReadyRequest, self.model_ready),
            "ServerMetadata": self._method(messages.ServerMetadataRequest, self.server_metadata, "read"),
            "ModelMetadata": self._method(messages.ModelMetadataRequest, self.model_metadata, "read", "name"),
            "ModelConfig": self._method(messages.ModelConfigRequest, self.model_config, "read", "name"),
            "ModelStatistics": self._method(messages.ModelStatisticsRequest, self.model_statistics, "read", "name"),
            "RepositoryIndex": self._method(messages.RepositoryIndexRequest, self.index, "read"),
            "RepositoryModelLoad": self._method(messages.RepositoryModelLoadRequest, self.load, "admin", "model_name"),
            "RepositoryModelUnload": self._method(messages.RepositoryModelUnloadRequest, self.unload, "admin", "model_name"),
        }

    async def ready(self) -> bool:
        """Whether this and every other worker is ready."""
        try:
            v2.require_ready(self._registry)
            v2.require_others_ready(await self._siblings.ask("GET", "/v2/health/ready"))
        except Unavailable:
            return False
        return True

    async def server_live(self, _request: messages.ServerLiveRequest) -> messages.ServerLiveResponse:
        """Whoever answers is alive."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, _request: messages.ServerReadyRequest) -> messages.ServerReadyResponse:
        """Not an error where it is not, as standard clients want it."""
        return messages.ServerReadyResponse(ready=await self.ready())

    async def model_ready(self, request: messages.ModelReadyRequest) -> messages.ModelReadyResponse:
        """A model that is not here is not ready."""
        try:
            v2.ready_model(self._registry, request.name, request.version or None)
        except (Unavailable, UnknownModel):
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def server_metadata(self, _request: messages.ServerMetadataRequest) -> messages.ServerMetadataResponse:
        """Name, version and extensions."""
        return ParseDict(v2.server_metadata().model_dump(), messages.ServerMetadataResponse())

    async def model_metadata(self, request: messages.ModelMetadataRequest) -> messages.ModelMetadataResponse:
        """Inputs and outputs; for what HTTP says besides, the message has no field."""
        found = v2.metadata(self._registry, request.name, request.version or None)
        return ParseDict(found.model_dump(), messages.ModelMetadataResponse(), ignore_unknown_fields=True)

    async def model_config(self, request: messages.ModelConfigRequest) -> messages.ModelConfigResponse:
        """The part of Triton's configuration that has a meaning here."""
        model = self._registry.get(request.name, request.version or None)
        signature = model.manifest.signature
        config = messages.ModelConfig(
            name=model.name,
            platform=v2.PLATFORMS[model.artifact.format],
            max_batch_size=signature.batch.max,
            input=[messages.ModelInput(optional=spec.role == "mask", **_tensor(spec)) for spec in signature.inputs],
            output=[messages.ModelOutput(**_tensor(spec)) for spec in signature.outputs],
            dynamic_batching=messages.ModelDynamicBatching(),
        )
        return messages.ModelConfigResponse(config=config)

    async def model_statistics(self, request: messages.ModelStatisticsRequest) -> messages.ModelStatisticsResponse:
        """Of one version, of all of a model's, or without a name of everything; what the other workers did is in it."""
        path = "/v2/models/stats"
        models = self._registry.models()
        if request.name:
            models = v2.asked(self._registry, request.name, request.version or None)
            path = f"/v2/models/{request.name}/stats"
        found = v2.with_others(v2.statistics_of(models), await self._siblings.ask("GET", path))
        return ParseDict(found.model_dump(), messages.ModelStatisticsResponse())

    async def index(self, request: messages.RepositoryIndexRequest) -> messages.RepositoryIndexResponse:
        """Every version that serves, is on its way, or could not be loaded."""
        found = [entry.model_dump() for entry in repository.entries(self._registry, request.ready)]
        return ParseDict({"models": found}, messages.RepositoryIndexResponse())

    async def load(self, request: messages.RepositoryModelLoadRequest) -> messages.RepositoryModelLoadResponse:
        """Returns when every worker serves what the repository has now."""
        repository.allow(self._controlled, request.parameters, repository.LOAD)
        await repository.load_here(self._registry, self._rollouts, request.model_name)
        await self._others(f"/v2/repository/models/{request.model_name}/load")
        return messages.RepositoryModelLoadResponse()

    async def unload(self, request: messages.RepositoryModelUnloadRequest) -> messages.RepositoryModelUnloadResponse:
        """Requests that it has are answered."""
        repository.allow(self._controlled, request.parameters, repository.UNLOAD)
        await self._registry.unload(request.model_name)
        await self._others(f"/v2/repository/models/{request.model_name}/unload")
        return messages.RepositoryModelUnloadResponse()

    async def _others(self, path: str) -> None:
        repository.require_done(await self._siblings.ask("POST", path, timeout=None))

    def _method(
        self, kind: type[M], answer: Callable[[M], Awaitable[Message]], scope: Scope | None = None, model: str | None = None
    ) -> Method:
        """A method as grpc calls it. It asks for a key of `scope`, where there are keys, for the model in the field `model`."""

        path = PATH + kind.__name__.removesuffix("Request")

        async def called(message: bytes, context: Context) -> bytes:
            started, given = time.perf_counter(), metadata(context)
            caller = identity.of(given)
            identity.current.set(caller)
            status, size = GONE, 0
            try:
                outcome = await answered(message, given)
                status, size = (outcome.status, 0) if isinstance(outcome, ServiceError) else (200, len(outcome))
            finally:
                if self._access is not None:
                    self._access.line("POST", path, status, time.perf_counter() - started, size, caller)
            if isinstance(outcome, ServiceError):
                await refuse(context, outcome)
            return outcome

        async def answered(message: bytes, given: Headers) -> bytes | ServiceError:
            try:
                request = codec.parse(kind, message)
                if self._guard is None or scope is None:
                    found = await answer(request)
                else:
                    about = getattr(request, model) or None if model is not None else None
                    with self._guard.admit(presented(given), scope, about):
                        found = await answer(request)
                return found.SerializeToString()
            except Exception as error:  # the last line of defence: a caller gets an answer, never a stack trace
                failure = errors.translate(error)
                if failure is not error and type(failure) is ServiceError:
                    log.exception("%s failed", kind.__name__)
                return failure

        return called


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """An input or output of a configuration, without its batch axis."""
    kind = tensor.datatype(spec.dtype)
    return {"name": spec.name, "data_type": messages.DataType.Value(f"TYPE_{kind}"), "dims": spec.wire_shape[1:]}
