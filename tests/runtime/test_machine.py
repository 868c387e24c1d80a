from __future__ import annotations

import os

import pytest

from runtime import machine


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Write what a container sees of its own cgroup; eight cores are there for everyone."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(("text", "cores"), [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)])
def test_the_quota_of_cgroup_v2_counts(cgroup, text, cores):
    cgroup(cpu_max=text + "\n")
    assert machine.cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_the_quota_of_cgroup_v1_counts(cgroup, quota, cores):
    cgroup(cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert machine.cores() == cores


def test_without_cgroups_the_affinity_counts(cgroup):
    assert machine.cores() == 8
