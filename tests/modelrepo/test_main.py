"""`python -m modelrepo`: what people and scripts do with published versions."""

from __future__ import annotations

import json

import pytest

from modelrepo.__main__ import main
from modelrepo.lease import Leases
from modelrepo.manifest import MANIFEST, EngineSet
from modelrepo.repository import Repository, add_engines
from modelrepo.signatures import SIGNATURES
from tests import micro


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "models"
    for factor in (2.0, 3.0, 3.0):
        micro.publish_double(root, factor=factor)
    micro.publish_mean(root)
    return root


@pytest.fixture
def run(capsys):
    """Status, output and errors of a command."""

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def versions(root):
    repository = Repository(root)
    return {name: repository.versions(name) for name in repository.models()}


def test_list_tells_of_every_model_and_its_newest_version(root, run):
    status, output, _ = run("list", root)
    assert status == 0
    assert output.splitlines()[0].startswith("double: 1, 2, 3; the newest micro, accuracy 1, ")
    assert json.loads(run("list", root, "--json")[1]) == {"double": [1, 2, 3], "mean": [1]}
    assert run("list", root / "nowhere") == (
        1,
        "",
        f"list: model repository '{root}/nowhere' cannot be read (No such file or "
        "directory): give the folder that `python -m export` published to\n",
    )


def test_show_says_what_a_version_is_and_gives_its_manifest_to_programs(root, run):
    output = run("show", root, "double")[1]
    for line in ("double:3 in ", "multiclass", "2: a, b", "accuracy 1 (>= 0.5 asked for)", "x float32 [batch 1-8, 2]", "nobody"):
        assert line in output
    assert run("show", root, "double:2", "--json")[1] == (root / "double/2" / MANIFEST).read_text()
    assert "has no version 9 in" in run("show", root, "double:9")[2]
    assert "'double:x' does not name a version: write NAME:VERSION, such as double:1" in run("show", root, "double:x")[2]


def test_diff_names_what_changed_and_nothing_else(root, run):
    assert run("diff", root, "double:2", "double:3")[1] == "nothing differs\n"
    (line,) = run("diff", root, "double:1", "double:2")[1].splitlines()
    assert line.split()[:2] == ["files", "model.onnx"]
    output = run("diff", root, "double:1", "mean")[1]
    assert "task          - labels " in output
    assert "- a" not in output.split("task")[0]


def test_verify_names_what_is_damaged_and_ends_with_a_status(root, run):
    assert run("verify", root)[:2] == (0, "double:1 is whole\ndouble:2 is whole\ndouble:3 is whole\nmean:1 is whole\n")
    (root / "double/2/model.onnx").write_bytes(b"torn")
    status, output, errors = run("verify", root, "double")
    assert (status, output) == (1, "double:1 is whole\ndouble:3 is whole\n")
    assert errors.startswith("double:2 fails: ")
    assert "model.onnx has size 4" in errors
    assert run("verify", root, "mean:1")[0] == 0


def test_keygen_sign_and_verify_go_together(root, run, tmp_path):
    key = tmp_path / "key"
    assert run("keygen", key)[1].endswith(f": keep {key} secret, give {key}.pub to those who are to trust it\n")
    assert run("sign", root, "double:3", "--key", key)[0] == 0
    status, output, errors = run("verify", root, "double", "--trusted-keys", f"{key}.pub")
    assert (status, output.startswith("double:3 is whole, signed by ")) == (1, True)
    assert "double:1 fails: double:1 is not signed" in errors
    assert "signed by" in run("list", root)[1]
    (root / "double/2/model.onnx").write_bytes(b"torn")
    assert run("sign", root, "double:2", "--key", key)[0] == 1, "what is not whole is not signed"


def test_copy_brings_versions_with_signatures_and_engines_and_writes_over_none(root, run, tmp_path):
    other = tmp_path / "other"
    engine = tmp_path / "model.plan"
    engine.write_bytes(b"an engine")
    added = EngineSet(key="sm89", engines=(micro.engine(engine),), candidates=(micro.candidate(micro.engine(engine)),))
    add_engines(Repository(root).open("double", 3), added, tmp_path)
    assert run("copy", root, other, "double:3", "mean")[1] == f"double:3 copied to {other}\nmean:1 copied to {other}\n"
    assert versions(other) == {"double": [3], "mean": [1]}
    assert len(Repository(other).open("double", 3).engines) == 1
    run("keygen", tmp_path / "key")
    run("sign", root, "--key", tmp_path / "key")
    assert run("copy", root, other, "double:3")[1] == f"double:3 is already in {other}\n"
    assert (other / "double/3" / SIGNATURES).read_bytes() == (root / "double/3" / SIGNATURES).read_bytes(), "which it lacked"
    (other / "double/3/model.onnx").write_bytes(b"torn")
    assert run("copy", root, other, "double:3")[1] == f"double:3 copied to {other}\n"
    assert run("verify", other)[0] == 0
    micro.publish_double(other, factor=5.0)
    micro.publish_double(root, factor=7.0)
    assert run("copy", root, other)[2] == f"copy: double:4 is another version in {other}: give it a new number\n"


def test_copy_may_make_a_repository_like_another(root, run, tmp_path):
    other = tmp_path / "other"
    run("copy", root, other)
    (root / "double/3").rename(tmp_path / "withdrawn")
    assert run("copy", root, other, "--delete")[1].splitlines()[-1] == "double:3 removed"
    assert versions(other) == versions(root)


def test_prune_keeps_the_newest_and_what_is_served(root, run):
    leases = Leases()
    assert leases.hold(root / "double/1")
    before = versions(root)
    assert run("prune", root, "--keep", 1, "--dry-run")[1].startswith("double:1 would be removed, unless it is served here\n")
    assert versions(root) == before
    assert run("prune", root, "--keep", 1)[1] == "double:1 stays: it is served\ndouble:2 removed\n"
    assert versions(root) == {"double": [1, 3], "mean": [1]}
    assert {path.name for path in (root / "double").iterdir()} == {"1", "3"}, "nothing lies about"
    leases.retain(set())
    run("prune", root, "--keep", 1)
    assert versions(root) == {"double": [3], "mean": [1]}
    assert run("prune", root, "--keep", 0) == (1, "", "prune: of each model at least 1 version is kept, not 0\n")
