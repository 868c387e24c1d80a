"""`python -m loadtests.smoke IMAGE --repository models`: what an image must do, asked of real containers from outside."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tritonclient.http as triton
import uvloop

from loadtests.calls import golden_calls
from loadtests.client import Load
from loadtests.container import Container, Docker
from loadtests.drills.drill import Outcome, soon
from loadtests.drills.models import publish_copy, publish_torn
from loadtests.server import NotStarted
from modelrepo.repository import Repository
from quartet_client.wire import DATATYPES

RATE = 200.0
LAG = 1.0  # seconds that requests still come after the probe said no: routers are told late. Below --drain-delay
SIZE = 450  # MB of the image for CPUs
INSIDE = """
import json, os, pathlib
from runtime.machine import cores
from service import batching
lines = pathlib.Path("/proc/1/status").read_text().splitlines()
status = dict(line.split(":", 1) for line in lines if ":" in line)
try:
    pathlib.Path("/app/written").write_text("")
    written = True
except OSError:
    written = False
print(json.dumps({"user": status["Uid"].split()[1], "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "locked": status["NoNewPrivs"].strip(), "written": written, "cores": cores(), "machine": len(os.sched_getaffinity(0)),
    "compiled": batching.__file__.endswith(".so")}))
"""


def main(arguments: list[str]) -> int:
    """0 where every promise was kept and no request lost, else 1."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.smoke", description=__doc__)
    parser.add_argument("image", help="as it is called in the engine")
    parser.add_argument("--repository", type=Path, default=Path("models"), help="published models (default: %(default)s)")
    parser.add_argument("--docker", default="docker", help="the engine's command (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    docker = Docker(chosen.docker)
    outcome = Outcome()
    try:
        size = docker.inspect(chosen.image)["Size"] / 1e6
        outcome.promise(f"the image has {size:.0f} MB, at most {SIZE}", size <= SIZE)
        with tempfile.TemporaryDirectory(prefix="quartet-smoke-") as folder:
            Path(folder).chmod(0o755)  # the container's user reads it
            uvloop.run(_whole(outcome, docker, chosen.image, chosen.repository.resolve()))
            uvloop.run(_corrupt(outcome, docker, chosen.image, chosen.repository.resolve(), Path(folder) / "models"))
    except NotStarted as error:
        outcome.promise(f"the container starts: {error}", False)
    except subprocess.CalledProcessError as error:
        outcome.promise(f"{' '.join(error.cmd)}: {error.stderr.strip()}", False)
    for phase, report in outcome.rows:
        print(f"{phase}: {report.sent} sent, {len(report.right)} right, {len(report.refused)} refused, {report.lost.total()} lost")
        for reason, count in report.lost.most_common(3):
            print(f"    lost: {count} x {reason}")
    for text, kept in outcome.promises:
        print(f"{'kept  ' if kept else 'BROKEN'} {text}")
    return 0 if outcome.passed else 1


async def _whole(outcome: Outcome, docker: Docker, image: str, path: Path) -> None:
    """A good repository: confinement, the quota, answers, and a SIGTERM under load."""
    repository = Repository(path)
    async with Container(docker, image, path) as container:
        outcome.promise(f"ready {container.seconds_to_ready:.2f} s after its start", True)
        facts = json.loads(await container.python(INSIDE))
        outcome.promise(f"runs as user {facts['user']}", int(facts["user"]) >= 1000)
        outcome.promise("has no capability, cannot gain any", facts["capabilities"] == 0 and facts["locked"] == "1")
        outcome.promise("cannot write to its root", not facts["written"])
        outcome.promise(f"sees {facts['cores']} core of {facts['machine']}, as its quota says", facts["cores"] == 1)
        outcome.promise("its hot path is compiled", facts["compiled"])
        await asyncio.to_thread(docker, "exec", container.name, "python", "-I", "-S", "/app/healthcheck.py")
        outcome.promise("its health check passes", True)
        for name in repository.models():
            outcome.promise(f"tritonclient gets {name}'s golden row", await asyncio.to_thread(_asked, container, repository, name))
        calls = [call for name in repository.models() for call in golden_calls(repository, name)]
        async with Load(container.address, calls, RATE) as load:
            await asyncio.sleep(2)
            outcome.row("before SIGTERM", load.phase())
            ended = asyncio.create_task(container.terminate())

            async def turned_away() -> bool:
                return not await container.ready()

            noticed = await soon(turned_away, 5)
            await asyncio.sleep(LAG)
        outcome.row(f"SIGTERM, and {LAG:g} s after the probe said no", load.report)
        outcome.promise("the probe says no soon after SIGTERM", noticed)
        status = await ended
        outcome.promise(f"ended with status {status}", status == 0)


async def _corrupt(outcome: Outcome, docker: Docker, image: str, source: Path, root: Path) -> None:
    """A repository whose newest version is torn: the one before it serves."""
    name = Repository(source).models()[0]
    publish_copy(source, name, root)
    publish_torn(root, name)
    async with Container(docker, image, root) as container:
        index = json.loads((await container.post("/v2/repository/index")).body)
        states = {entry["version"]: (entry["state"], entry.get("reason", "")) for entry in index}
        right = states["1"][0] == "READY" and states["2"][0] == "UNAVAILABLE" and "has size" in states["2"][1]
        outcome.promise(f"{name}:2 is torn, {name}:1 serves, and the index says why: {states['2'][1]}", right)
        answered = await asyncio.to_thread(_asked, container, Repository(root), name, 1)
        outcome.promise(f"tritonclient gets {name}'s golden row from version 1", answered)


def _asked(container: Container, repository: Repository, name: str, version: int | None = None) -> bool:
    """Whether the standard client gets the answer of the first golden row."""
    published = repository.open(name, version)
    inputs, outputs = published.goldens()
    tolerance = max(candidate.golden_tolerance for candidate in published.manifest.candidates)
    asked = []
    for key, rows in inputs.items():
        asked.append(triton.InferInput(key, list(rows[:1].shape), DATATYPES[rows.dtype.name]))
        asked[-1].set_data_from_numpy(rows[:1])
    with contextlib.closing(triton.InferenceServerClient(f"{container.address[0]}:{container.port}")) as client:
        answer = client.infer(name, asked)
    right = answer.get_response()["model_version"] == str(published.version)
    return right and all(bool(np.abs(answer.as_numpy(key) - rows[:1]).max() <= tolerance) for key, rows in outputs.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
