from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from modelrepo.errors import CorruptVersion, ManifestError, ModelNotFound, RepositoryError, VersionNotFound
from modelrepo.repository import Repository
from modelrepo.staging import STAGING
from tests import micro


def publish_until(step: int, root: Path) -> None:
    """A publish in which the Nth call that touches the disk is the process's last. In a process of its own."""
    calls = 0

    def deadly(function):
        def wrapped(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    touching = {
        os: ("fsync", "open", "rename", "mkdir"),
        tempfile: ("mkdtemp",),
        Path: ("rename", "write_text", "mkdir", "chmod"),
        micro: ("write_double",),
    }
    for owner, names in touching.items():
        for name in names:
            setattr(owner, name, deadly(getattr(owner, name)))
    micro.publish_double(root, factor=2.0)


def killed(step: int, root: Path) -> bool:
    """Whether a publish came as far as that step, which was its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.modelrepo.test_repository"])  # what takes long to import is imported once
    process = context.Process(target=publish_until, args=(step, root))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_versions_count_from_one_and_the_newest_opens(tmp_path):
    assert [micro.publish_double(tmp_path), micro.publish_double(tmp_path)] == [1, 2]
    repository = Repository(tmp_path)
    assert repository.models() == ["double"]
    assert repository.versions("double") == [1, 2]
    assert repository.open("double").version == 2
    assert repository.open("double", 1).version == 1


def test_golden_rows_come_back_as_they_were(tmp_path):
    micro.publish_mean(tmp_path)
    inputs, outputs = Repository(tmp_path).open("mean").goldens()
    assert set(inputs) == {"sequence", "mask"}
    np.testing.assert_array_equal(outputs["values"], micro.mean(inputs)["values"])


def test_killed_at_any_step_leaves_the_old_version_whole_and_nothing_half_written(tmp_path):
    micro.publish_double(tmp_path)
    before = files(tmp_path)
    for step in range(1, 100):
        died = killed(step, tmp_path)
        repository = Repository(tmp_path)
        versions = repository.versions("double")
        repository.open("double")  # whatever is visible is whole
        assert {name: content for name, content in files(tmp_path).items() if name in before} == before
        if not died:
            break
        if versions == [1, 2]:  # killed after the rename: published all the same; make room for the next try
            for path in (tmp_path / "double/2").iterdir():
                path.unlink()
            (tmp_path / "double/2").rmdir()
    assert step > 10, "the publish has more steps than that to be killed at"
    assert versions == [1, 2]
    assert not list((tmp_path / "double").glob(STAGING + "*")), "leftovers of the killed are swept away"


def test_a_staging_folder_in_use_is_not_swept_away(tmp_path):
    repository = Repository(tmp_path)
    with repository.stage("double") as mine:
        micro.publish_double(tmp_path)
        assert mine.path.is_dir()


def test_a_block_that_fails_publishes_nothing_and_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), Repository(tmp_path).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        raise ZeroDivisionError
    assert Repository(tmp_path).models() == []
    assert list((tmp_path / "double").iterdir()) == []


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_new_staging_folder_swept_away_by_another_exporter_is_made_again(tmp_path, monkeypatch, moment):
    swept = []

    def sweep() -> None:
        if not swept:
            swept.extend((tmp_path / "double").glob(STAGING + "*"))
            swept[0].rmdir()

    if moment == "before it is opened":
        mkdtemp = tempfile.mkdtemp
        monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: (mkdtemp(**options), sweep())[0])
    else:
        flock = fcntl.flock
        monkeypatch.setattr(fcntl, "flock", lambda *arguments: (sweep(), flock(*arguments))[1])
    assert micro.publish_double(tmp_path) == 1
    assert len(swept) == 1
    assert not swept[0].exists()


def _publish(root: Path) -> int:
    return micro.publish_double(root)


def test_exporters_at_once_get_versions_of_their_own(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        versions = pool.map(_publish, [tmp_path] * 8)
    assert sorted(versions) == list(range(1, 9))
    assert Repository(tmp_path).versions("double") == list(range(1, 9))


def test_a_file_that_changes_between_staging_and_publish_is_noticed(tmp_path):
    with Repository(tmp_path).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        inputs = {"x": np.ones((1, 2), np.float32)}
        manifest = micro.manifest(staging.path, micro.DOUBLE, micro.Multiclass(labels=("a", "b")), inputs, micro.double(inputs))
        (staging.path / "model.onnx").write_bytes(b"something else")
        with pytest.raises(CorruptVersion, match="model.onnx"):
            staging.publish(manifest)


def test_a_file_that_the_manifest_does_not_name_is_not_published_along(tmp_path):
    inputs = {"x": np.ones((1, 2), np.float32)}
    with Repository(tmp_path).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        (staging.path / "notes.txt").write_text("")
        with pytest.raises(CorruptVersion, match=r"holds \['notes.txt'\], which the manifest does not name"):
            micro.finish(staging, micro.DOUBLE, micro.Multiclass(labels=("a", "b")), inputs, micro.double(inputs))
    assert Repository(tmp_path).models() == []


def test_a_stray_file_with_a_number_for_a_name_is_stepped_over(tmp_path):
    (tmp_path / "double").mkdir()
    (tmp_path / "double/1").write_text("")
    assert micro.publish_double(tmp_path) == 2


@pytest.mark.parametrize("name", ["model.onnx", "goldens.npz", "report.json"])
@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    micro.publish_double(tmp_path)
    path = tmp_path / "double/1" / name
    content = path.read_bytes()
    match damage:
        case "altered":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut":
            path.write_bytes(content[:-1])
        case "gone":
            path.unlink()
    with pytest.raises(CorruptVersion, match=f"{name} (has sha256|has size|cannot be read).*restore"):
        Repository(tmp_path).open("double")


def test_a_version_without_manifest_says_so(tmp_path):
    (tmp_path / "double/1").mkdir(parents=True)
    with pytest.raises(ManifestError, match="manifest.json cannot be read"):
        Repository(tmp_path).open("double")


def test_golden_rows_that_do_not_fit_the_signature_are_a_corrupt_version(tmp_path):
    inputs = {"x": np.ones((2, 3), np.float32)}
    with Repository(tmp_path).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        micro.finish(staging, micro.DOUBLE, micro.Multiclass(labels=("a", "b")), inputs, micro.double(inputs))
    with pytest.raises(CorruptVersion, match="goldens.npz does not fit the signature"):
        Repository(tmp_path).open("double").goldens()


@pytest.mark.parametrize("name", ["..", "../secret", "a/b", "", ".hidden", "a\n", "x" * 200, "/etc"])
def test_a_model_name_cannot_leave_the_repository(tmp_path, name):
    with pytest.raises(ModelNotFound, match="is not a model name"):
        Repository(tmp_path).open(name)


def test_a_missing_model_and_a_missing_version_name_what_there_is(tmp_path):
    micro.publish_double(tmp_path)
    with pytest.raises(ModelNotFound, match=r"'doubel' is not in .*; it holds \['double'\]"):
        Repository(tmp_path).open("doubel")
    with pytest.raises(VersionNotFound, match=r"no version 7; it has \[1\]"):
        Repository(tmp_path).open("double", 7)


def test_a_missing_repository_says_what_to_give(tmp_path):
    with pytest.raises(RepositoryError, match="cannot be read .*give the folder that `python -m export` published to"):
        Repository(tmp_path / "nowhere").models()


def test_a_repository_that_is_a_file_cannot_be_published_to(tmp_path):
    (tmp_path / "models").write_text("")
    with pytest.raises(RepositoryError, match="cannot publish 'double' .*writable folder"):
        micro.publish_double(tmp_path / "models")


def test_other_files_and_folders_are_no_versions(tmp_path):
    micro.publish_double(tmp_path)
    for stray in ("double/latest", "double/01", "double/0", "double/1.bak", ".git", "empty"):
        (tmp_path / stray).mkdir(parents=True)
    (tmp_path / "README").write_text("")
    assert Repository(tmp_path).models() == ["double"]
    assert Repository(tmp_path).versions("double") == [1]


def test_a_published_manifest_is_readable_json(tmp_path):
    micro.publish_double(tmp_path)
    document = json.loads((tmp_path / "double/1/manifest.json").read_text())
    assert document["format_version"] == 2
    assert document["signature"]["inputs"][0]["shape"] == [{"axis": "batch", "min": 1, "opt": 4, "max": 8}, 2]
    assert (tmp_path / "double/1").stat().st_mode & 0o777 == 0o755
