"""A repository on a disk that is full, read-only, or shared: nothing half-published, nothing lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from export.__main__ import main
from modelrepo.repository import Repository

ROOT = Path(__file__).parents[2]
FP32 = ("--tensorrt", "off", "--precisions", "fp32")


@pytest.fixture
def run(tiny_runs):
    return tiny_runs["mlp"]


@contextmanager
def mounted(path: Path, options: str):
    """A file system in memory at `path`."""
    path.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True)
    if not done or done.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


def test_a_full_disk_publishes_nothing_and_says_so(run, tmp_path, capsys):
    models = tmp_path / "models"
    with mounted(models, "size=1m"):
        assert main([str(run), "--repository", str(models), *FP32]) == 0
        for kilobytes in (4, 16, 32, 64):
            (models / "filler").write_bytes(b"0" * (shutil.disk_usage(models).free - kilobytes * 1024))
            capsys.readouterr()
            assert main([str(run), "--repository", str(models), *FP32]) == 1
            assert "No space left on device" in capsys.readouterr().err, kilobytes
            repository = Repository(models)
            assert repository.versions("tiny-mlp") == [1]
            assert repository.open("tiny-mlp").version == 1
            assert [entry.name for entry in (models / "tiny-mlp").iterdir()] == ["1"], "no half version stays behind"
            (models / "filler").unlink()
        assert main([str(run), "--repository", str(models), *FP32]) == 0
        assert repository.versions("tiny-mlp") == [1, 2]


def test_a_read_only_repository_is_refused_before_any_work(run, tmp_path, capsys):
    models = tmp_path / "models"
    with mounted(models, "size=4m"):
        remount(models, "ro")
        assert main([str(run), "--repository", str(models), *FP32]) == 1
        printed = capsys.readouterr()
        assert "Read-only file system" in printed.err
        assert "free space, or give a writable folder" in printed.err
        assert "exporting to ONNX" not in printed.out
        remount(models, "rw")
        assert main([str(run), "--repository", str(models), *FP32]) == 0


@pytest.mark.slow
def test_two_exporters_at_once_both_publish(run, tmp_path):
    command = [sys.executable, "-m", "export", str(run), "--repository", str(tmp_path / "models"), *FP32]
    exporters = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    for exporter in exporters:
        output, _ = exporter.communicate(timeout=300)
        assert exporter.returncode == 0, output.decode()
    repository = Repository(tmp_path / "models")
    assert repository.versions("tiny-mlp") == [1, 2]
    one, two = (repository.open("tiny-mlp", version).manifest for version in (1, 2))
    assert one.lineage == two.lineage
    assert sorted(entry.name for entry in (tmp_path / "models/tiny-mlp").iterdir()) == ["1", "2"]
