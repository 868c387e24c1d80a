"""The application with its gRPC server, in this process: an event loop in a thread, asked by blocking clients."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import grpc
import httpx2
import pytest
import tritonclient.grpc as triton

from service.app import create_app
from service.settings import Settings
from tests import micro

SERVICE = "/inference.GRPCInferenceService/"
LONGEST = 100_000


class Running:
    """`address` is gRPC's; `run` runs a coroutine in its loop."""

    def __init__(self, root, **settings):
        self._runner = asyncio.Runner()
        self.loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.app = self.run(self._make(root, settings))
        self._lifespan = self.app.lifespan()
        self.run(self._lifespan.__aenter__())
        self.address = f"127.0.0.1:{self.run(self.app.rpc.open('127.0.0.1', 0))}"

    async def _make(self, root, settings):
        return create_app(Settings(repository=root, device="cpu", grpc_port=0, max_body_bytes=LONGEST, **settings))

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self, seconds=1.0):
        self.run(self.app.rpc.close(seconds))
        self.run(self._lifespan.__aexit__(None, None, None))
        self.stop()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self._runner.close()

    def metric(self, name, **labels):
        """A metric's sum over the series of the model `double` that have these labels."""

        async def read():
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://quartet") as client:
                return (await client.get("/metrics")).text

        wanted = {"model": "double", **labels}.items()
        series = [line.rsplit(" ", 1) for line in self.run(read()).splitlines() if line.startswith(name + "{")]
        return sum(float(value) for key, value in series if all(f'{label}="{each}"' in key for label, each in wanted))

    @contextmanager
    def held(self, model="double"):
        """A block in which the model's session starts what it gets, and ends it only when the block does; gives what it has."""
        (worker,) = self.app.registry.get(model).batcher.workers
        gate, started = threading.Event(), threading.Semaphore(0)
        run = worker.session.run

        def hold(inputs):
            started.release()
            assert gate.wait(20)
            return run(inputs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("service.batching.INLINE_SECONDS", 0)  # nothing is quick: it runs in the thread
            patch.setattr(worker.session, "run", hold)
            try:
                yield started
            finally:
                gate.set()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    micro.publish_mean(root)
    micro.publish_text(root)
    return root


@pytest.fixture(scope="module")
def server(models):
    running = Running(models, max_queue_rows=64)
    yield running
    running.close()


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address) as client:
        yield client


def given(name, array, kind="FP32"):
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor
