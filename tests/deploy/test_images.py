"""The images: what they install is what pyproject.toml asks for, what they run is what they should."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy/docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVED = ["serve", "otel", "remote", "sign"]
EXTRAS = {
    "cpu": [*SERVED, "cpu"],
    "gpu": [*SERVED, "capture", "gpu"],
    "gpu-tensorrt": [*SERVED, "capture", "gpu", "tensorrt"],
    "trainer": ["export", "gpu", "remote", "sign"],
    "loadtest": ["load"],
}
SERVING = ["cpu", "gpu", "gpu-tensorrt"]


def each(names, argument="target"):
    return pytest.mark.parametrize(argument, names, ids=lambda name: f"the {name} image")  # not `gpu`, which is a marker


def asked_for(extras):
    """What the project and these extras require, by name."""
    found = {}
    waiting = [*PROJECT["project"]["dependencies"], *(f"quartet[{extra}]" for extra in extras)]
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == "quartet":
            for extra in requirement.extras:
                waiting += PROJECT["project"]["optional-dependencies"][extra]
        else:
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


class Locked:
    """A file that `make lock` wrote: each requirement with its hashes, and who asked for it."""

    def __init__(self, name):
        self.versions, self.direct, self.unhashed = {}, set(), []
        text = (DOCKER / f"requirements/{name}.txt").read_text().replace("\\\n", "")
        for block in re.split(r"\n(?=[a-z])", text):
            if not (found := re.match(r"([a-z0-9.-]+)(?:\[.*?\])?==(\S+)", block)):
                continue
            self.versions.setdefault(found[1], []).append(found[2])
            if "quartet (pyproject.toml)" in block:
                self.direct.add(found[1])
            if not re.search(r"--hash=sha256:[0-9a-f]{64}", block):
                self.unhashed.append(found[1])


@each(EXTRAS, "name")
def test_locked_is_what_the_project_asks_for_each_by_hash(name):
    locked, asked = Locked(name), asked_for(EXTRAS[name])
    assert locked.unhashed == []
    assert locked.direct == set(asked), "run `make lock`"
    for package, requirements in asked.items():
        for version in locked.versions[package]:
            assert all(requirement.specifier.contains(version) for requirement in requirements), f"{package}: run `make lock`"


@each(SERVING, "name")
def test_what_serves_holds_no_torch(name):
    assert not {"torch", "triton", "scikit-learn"} & set(Locked(name).versions)


def test_make_lock_writes_each_of_them_from_these_extras():
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "lock"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    written = dict(re.findall(r"pyproject\.toml (.*) -o deploy/docker/requirements/(\S+)\.txt", recipe))
    assert {name: extras.replace("--extra ", "").split() for extras, name in written.items()} == EXTRAS


def stages():
    """Each stage of the Dockerfile: the one it builds on, and its lines, joined."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", "")
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return {
        name: (parent, [line for line in body.splitlines() if line and not line.startswith("#")])
        for parent, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def lines(name):
    """All lines of a stage and of those it builds on, the oldest first."""
    known = stages()
    found = []
    while name in known:
        parent, own = known[name]
        found, name = own + found, parent
    return found


@each(EXTRAS)
def test_every_target_runs_as_a_numeric_user_and_gets_its_signals(target):
    found = lines(target)
    users = [line for line in found if line.startswith("USER ")]
    assert re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", users[-1])
    entry = next(line for line in reversed(found) if line.startswith("ENTRYPOINT "))
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[:2] == ["python", "-m"], (
        "the exec form: a shell would keep SIGTERM to itself"
    )
    labels = " ".join(line for line in found if line.startswith("LABEL "))
    for label in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels


@each(EXTRAS)
def test_packages_come_before_code_so_that_a_change_of_code_is_quick(target):
    found = lines(target)
    copies = [line.split()[-1] for line in found if line.startswith("COPY --from")]
    assert copies == ["/opt/quartet", "/app"]
    installed = stages()[f"{target}-packages"][1]
    assert not [line for line in installed if line.startswith("COPY") and "requirements" not in line]


@each(SERVING)
def test_what_serves_has_a_health_check_and_a_repository_to_mount_over(target):
    found = "\n".join(lines(target))
    assert '"/app/healthcheck.py"]' in found
    assert "QUARTET_SERVE_REPOSITORY=/models" in found
    assert "COPY --chmod=0755 ${MODELS} /models" in found


def test_a_build_without_a_target_is_the_cpu_image():
    assert list(stages())[-1] == "cpu"


@pytest.mark.parametrize(
    ("answer", "status"), [(b"HTTP/1.1 200 OK\r\n\r\n", 0), (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1), (b"", 1), (None, 1)]
)
def test_the_health_check_says_whether_the_service_is_ready(answer, status):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answering():
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1000).startswith(b"GET /v2/health/ready ")
                connection.sendall(answer)

        thread = threading.Thread(target=answering)
        if answer is None:
            server.close()
        else:
            thread.start()
        command = [sys.executable, "-I", "-S", str(DOCKER / "healthcheck.py")]
        done = subprocess.run(command, env={"QUARTET_SERVE_PORT": str(port)}, capture_output=True, check=False)
        assert done.returncode == status
        if answer is not None:
            thread.join()


def test_the_smoke_test_is_skipped_with_a_reason_where_no_engine_runs(tmp_path):
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    engine.chmod(0o755)
    done = subprocess.run(
        ["deploy/smoke.sh"],
        cwd=ROOT,
        env={"DOCKER": str(engine), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert re.match(r"smoke: skipped, as no Docker engine answers .*Cannot connect to the Docker daemon", done.stdout)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_are_clean():
    subprocess.run(["shellcheck", "deploy/smoke.sh", "deploy/docker/install-locked.sh"], cwd=ROOT, check=True)
