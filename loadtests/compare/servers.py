"""Who is compared: how each is started, and how it is asked."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtests.compare import environments
from loadtests.compare.cases import Case
from loadtests.compare.interfaces import Interface
from loadtests.compare.models import Served
from loadtests.compare.process import Process, two_free_ports
from loadtests.server import ROOT

RAW = "raw"
PREDICT = Interface("instances", "/predict")
V2 = Interface("v2", "/v2/models/m/infer")


@dataclass(frozen=True)
class Peer:
    """Another server, from the folder of its name below `peers/`."""

    name: str
    folder: str
    settings: tuple[tuple[str, str], ...] = ()
    """What is not as `peers/common/network.py` has it."""
    interface: Interface = PREDICT
    mixed: bool = True
    """Whether it can batch sequences of different lengths."""
    note: str = ""

    def process(self, served: Served, venvs: Path, log: Path) -> Process:
        """The server with this model."""
        port = two_free_ports()
        script = environments.PEERS / self.folder / "server.py"
        settings = {
            "MODEL": str(served.onnx),
            "PORT": str(port),
            "PYTHONPATH": str(environments.PEERS / "common"),
            "OMP_NUM_THREADS": "1",
            **dict(self.settings),
        }
        return Process([str(environments.python(self.folder, venvs)), script.name], settings, script.parent, log, port)

    def interfaces(self, case: Case) -> dict[str, Interface]:
        """How it is asked in a case, by what is added to its name; none where it cannot do what is asked."""
        return {} if case.mixed and not self.mixed else {"": self.interface}


@dataclass(frozen=True)
class Quartet:
    """Ours."""

    name: str
    way: Literal["fp32", "fastest"]
    """Plain fp32 under ONNX Runtime, as the peers run it, or what the export found to be fastest and within its gates."""
    options: str = ""
    note: str = ""
    compiled: bool = False
    """As the images hold it, which `make compiled` writes to build/compiled."""

    def process(self, served: Served, venvs: Path, log: Path, repository: Path | None = None) -> Process:
        """The server with this model, or with all of another repository."""
        port = two_free_ports()
        root = repository or (served.fp32 if self.way == "fp32" else served.fastest)
        command = [sys.executable, "-m", "service", "--repository", str(root.resolve()), "--port", str(port), "--device", "cpu"]
        settings = {"OMP_NUM_THREADS": "1", **({"PYTHONSAFEPATH": "1", "PYTHONPATH": str(COMPILED)} if self.compiled else {})}
        return Process([*command, "--drain-delay", "0", *shlex.split(self.options)], settings, ROOT, log, port)

    def interfaces(self, case: Case) -> dict[str, Interface]:
        """Friendly JSON, and beside it the protocol: in JSON, and in binary where a request has many rows."""
        found = {"": Interface("labels", f"/models/{case.model}/predict")}
        if self.way == "fp32":
            found[" V2"] = Interface("v2", f"/v2/models/{case.model}/infer")
            if case.rows > 1:
                found[" V2 binary"] = Interface("v2-binary", f"/v2/models/{case.model}/infer")
        return found


Server = Peer | Quartet

COMPILED = ROOT / "build" / "compiled"

TWO = ("WORKERS", "2")
# Left alone, its processes have niceness 15 and would give way to the client.
RAY = (TWO, ("BATCH", "32"), ("RAY_worker_niceness", "0"))
PEERS = (
    Peer("fixed", "fixed", interface=Interface("constant", "/predict"), note="a ceiling: uvicorn answering a constant"),
    Peer("naive", "naive", note="FastAPI, pydantic, thread pool"),
    Peer("naive-2", "naive", (TWO,), note="the same under two uvicorn workers"),
    Peer("litserve", "litserve", (TWO,), note="2 workers, window 2 ms"),
    Peer("litserve-0ms", "litserve", (TWO, ("WINDOW_MS", "0")), note="2 workers, window 0"),
    Peer("bentoml", "bentoml", (TWO,), note="2 workers, its own window"),
    Peer("mlserver", "mlserver", (TWO, ("BATCH", "32")), V2, mixed=False, note="2 workers, window 2 ms, V2 JSON"),
    Peer("mosec", "mosec", (TWO,), note="2 workers, window 2 ms"),
    Peer("mosec-1ms", "mosec", (TWO, ("WINDOW_MS", "1")), note="2 workers, window 1 ms, the smallest there is"),
    Peer("ray", "ray", RAY, note="Ray Serve: 2 replicas, window 2 ms"),
    Peer(
        "ray-haproxy",
        "ray",
        (*RAY, ("RAY_SERVE_ENABLE_HA_PROXY", "1"), ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")),
        note="the same in its high-throughput mode",
    ),
    Peer("pytriton", "pytriton", (TWO, ("WINDOW_MS", "1")), V2, mixed=False, note="Triton, 2 instances, window 1 ms, V2 JSON"),
)
NAMES = (*(peer.name for peer in PEERS), RAW)
CEILINGS = ("fixed", RAW)


def quartets(options: Sequence[str], compiled: bool = False) -> list[Quartet]:
    """Ours in fp32 and with the fastest way that passed, with each string of options."""
    found = []
    for given in options:
        suffix = (" compiled" if compiled else "") + (f" {given}" if given else "")
        found.append(Quartet(f"quartet{suffix}", "fp32", given, "fp32 under ONNX Runtime", compiled))
        found.append(Quartet(f"quartet-fastest{suffix}", "fastest", given, "fastest way within the gates", compiled))
    return found
