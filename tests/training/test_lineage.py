from __future__ import annotations

import json
import platform
import socket
import subprocess

import numpy as np
import pytest
import torch

from training import lineage


def test_the_commit_is_that_of_this_checkout():
    commit, changed = lineage.git()
    assert commit is None or (len(commit) == 40 and isinstance(changed, bool))


def test_code_outside_a_checkout_has_no_commit(monkeypatch):
    def fails(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fails)
    assert lineage.git() == (None, None)


def test_versions_are_those_installed_and_a_library_that_is_not_is_left_out():
    found = lineage.versions(("torch", "numpy", "no-such-library"))
    assert found == {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def test_the_environment_describes_the_machine_as_plain_json():
    found = lineage.environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["cores"] >= 1
    assert found["threads"] == torch.get_num_threads()
    assert found["memory_gib"] > 0.1
    assert found["cpu"]
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_the_environment_does_not_say_whose_machine_it_is():
    host = socket.gethostname()
    if len(host) < 5:
        pytest.skip(f"the host name {host!r} is too short to tell from other text")
    assert host not in json.dumps(lineage.environment())


def test_a_system_without_proc_still_has_a_cpu(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(lineage.Path, "read_text", missing)
    assert lineage.environment()["cpu"]


@pytest.mark.gpu
def test_a_gpu_is_named():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    found = lineage.environment()
    assert found["gpus"] == [torch.cuda.get_device_name(0)]
    assert found["cuda"]
    assert found["cudnn"] > 0
