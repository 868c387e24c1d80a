"""What is remembered of rollouts, by whom, and which versions may serve for it."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest

from service.rollout import state as states
from service.rollout.memory import Memory, MemoryFault, Note
from service.rollout.plan import Limits, Rules, Stage
from service.rollout.state import Refused
from service.versions import VersionPolicy
from tests import micro

NOTE = Note("tried", "me", "why not")


def memory(root, versions="latest:1", rollout="", folder="state"):
    return Memory(
        root / "models", VersionPolicy.parse(versions), Rules.parse(rollout), folder and root / folder, lasting=bool(folder)
    )


def propose(candidate=2, stable=1):
    return partial(
        states.propose,
        candidate=candidate,
        stable=stable,
        stages=(Stage("canary", 0.1),),
        limits=Limits(),
        by="me",
        reason="",
        now=1.0,
    )


def ended(memory, candidate=2, stable=1, promoted=False):
    memory.change("m", propose(candidate, stable), NOTE)
    memory.change("m", lambda state: states.begin(state, 1.0), NOTE)
    digest = memory.digest("m", candidate)
    if promoted:
        memory.change("m", lambda state: states.promote(state, "me", "order", "", 1.0), NOTE)
    else:
        memory.change("m", lambda state: states.roll_back(state, digest, "me", "order", "", 1.0), NOTE)


def test_a_step_is_seen_by_others_and_by_who_starts_again(tmp_path):
    one, other = memory(tmp_path), memory(tmp_path)
    one.change("m", propose(), NOTE)
    assert other.state("m").rollout is None
    assert other.refresh() == {"m"}
    assert other.refresh() == set()
    assert other.state("m") == one.state("m") == memory(tmp_path).state("m")
    assert other.models() == ["m"]


def test_of_many_who_begin_at_once_one_does_whatever_they_had_read(tmp_path):
    workers = [memory(tmp_path) for _ in range(6)]
    results = []

    def begin(number):
        try:
            workers[number].change("m", propose(candidate=number + 2), NOTE)
            results.append(number + 2)
        except Refused:
            results.append(None)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [result for result in results if result]
    assert memory(tmp_path).state("m").rollout.candidate == winner


def test_every_step_stands_in_the_audit_log_and_what_was_none_does_not(tmp_path):
    kept = memory(tmp_path)
    ended(kept)
    kept.change("m", lambda state: state, NOTE)
    with pytest.raises(Refused):
        kept.change("m", lambda state: states.begin(state, 1.0), NOTE)
    lines = [json.loads(line) for line in (tmp_path / "state/audit.jsonl").read_text().splitlines()]
    assert [(line["seq"], line["from"], line["to"]) for line in lines] == [
        (1, "none", "proposed"),
        (2, "proposed", "canary:10"),
        (3, "canary:10", "rolled back"),
    ]
    assert (lines[0]["model"], lines[0]["by"], lines[0]["reason"], lines[0]["candidate"]) == ("m", "me", "why not", 2)


def test_a_process_that_dies_before_a_step_is_written_has_not_taken_it(tmp_path, monkeypatch):
    kept = memory(tmp_path)

    def die(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(MemoryFault, match="No space left on device.*--rollout-state"):
            kept.change("m", propose(), NOTE)
    assert kept.state("m").rollout is None
    (leftover,) = (tmp_path / "state").glob("*.new")
    leftover.write_text("{")
    again = memory(tmp_path)
    assert again.state("m").rollout is None
    again.change("m", propose(), NOTE)
    seqs = [json.loads(line)["seq"] for line in (tmp_path / "state/audit.jsonl").read_text().splitlines()]
    assert seqs == [1, 1], "written ahead, so twice rather than not at all"


def test_a_damaged_file_is_told_with_what_to_do_and_so_is_a_folder_that_cannot_be_used(tmp_path):
    kept = memory(tmp_path)
    kept.change("m", propose(), NOTE)
    (tmp_path / "state/m.json").write_text('{"seq": ')
    with pytest.raises(MemoryFault, match=r"m\.json cannot be understood .*restore it, or remove it"):
        memory(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(MemoryFault, match="cannot be remembered in .*file.*give --rollout-state a writable folder"):
        memory(tmp_path, folder="file")


@pytest.fixture
def published(tmp_path):
    """Five versions, of which the manifests alone count here."""
    for version in range(1, 6):
        folder = tmp_path / "models/m" / str(version)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(f"version {version}")
    return tmp_path


ALL = [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("versions", "rollout", "wanted", "newer"),
    [
        pytest.param("latest:1", "", [5], [5], id="no rollouts: the newest"),
        pytest.param("latest:1", "canary:10", [4], [5], id="nothing remembered: the newest may be unproven"),
        pytest.param("latest:2", "canary:10", [3, 4], [5], id="two of the proven ones"),
        pytest.param("2", "canary:10", [2], [3, 4, 5], id="named as proven"),
        pytest.param("1,3", "canary:10", [1, 3], [4, 5], id="several named"),
        pytest.param("all", "canary:10", [1, 2, 3, 4], [5], id="all proven ones"),
        pytest.param("latest:1", "other=canary:10", [5], [5], id="a rule for another model"),
    ],
)
def test_what_serves_before_anything_was_rolled_out(published, versions, rollout, wanted, newer):
    kept = memory(published, versions, rollout)
    assert kept.wanted("m", ALL) == wanted
    if rollout.startswith("canary"):
        assert kept.newer("m", ALL) == newer
    assert memory(published, versions, rollout).wanted("m", [1]) == ([] if versions == "2" else [1])


def test_a_single_version_is_the_proven_one(published):
    kept = memory(published, rollout="canary:10")
    assert (kept.wanted("m", [3]), kept.newer("m", [3])) == ([3], [])


def test_while_one_is_rolled_out_nothing_newer_serves_whatever_is_published(published):
    kept = memory(published)
    kept.change("m", propose(candidate=4, stable=2), NOTE)
    assert kept.wanted("m", ALL) == [2]
    assert memory(published).wanted("m", ALL) == [2], "started again"


def test_what_was_rolled_back_serves_no_more_until_its_number_comes_with_other_files(published):
    ended(memory(published), candidate=5, stable=4)
    assert memory(published).wanted("m", ALL) == [4]
    assert memory(published, "all").wanted("m", ALL) == [1, 2, 3, 4]
    assert memory(published, rollout="canary:10").newer("m", ALL) == []
    (published / "models/m/5/manifest.json").rename(published / "aside")
    assert memory(published).wanted("m", ALL) == [4], "nobody knows whether it is another: a copy of it may have been let go of"
    (published / "models/m/5/manifest.json").write_text("another")
    assert memory(published).wanted("m", ALL) == [5]
    assert memory(published, rollout="canary:10").newer("m", ALL) == [5]


def test_what_was_promoted_serves_also_where_the_versions_name_another_until_they_name_others(published):
    ended(memory(published, "2"), candidate=3, stable=2, promoted=True)
    assert memory(published, "2").wanted("m", ALL) == [2, 3]
    assert memory(published, "1").wanted("m", ALL) == [1], "an order of its own"
    assert memory(published, "latest:1", "canary:10").wanted("m", ALL) == [3]


def test_an_older_one_that_was_promoted_stays(published):
    ended(memory(published), candidate=4, stable=5, promoted=True)
    assert memory(published).wanted("m", ALL) == [4]


def test_without_the_version_that_served_the_oldest_does(published):
    ended(memory(published), candidate=4, stable=3)
    assert memory(published, rollout="canary:10").wanted("m", [4, 5]) == [5]


def test_only_versions_that_are_named_outlive_a_start_without_a_folder(tmp_path):
    assert memory(tmp_path).survives("m")
    assert not memory(tmp_path, folder=None).survives("m")
    assert memory(tmp_path, "latest:1 m=3", folder=None).survives("m")


def test_a_real_version_is_known_by_its_manifest(tmp_path):
    micro.publish_double(tmp_path / "models", "m")
    kept = memory(tmp_path)
    assert len(kept.digest("m", 1)) == 64
    shutil.rmtree(tmp_path / "models/m/1")
    assert kept.digest("m", 1) == states.ANY
