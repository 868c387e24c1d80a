"""The file of keys, and the commands that change it."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import pytest

from service.keys import file
from service.keys.__main__ import main
from service.keys.file import KeysError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def keys(path, capsys):
    """Runs a command; gives its status, what it printed, and what it said beside that."""

    def run(*arguments):
        status = main(["--keys", str(path), *arguments])
        return status, *capsys.readouterr()

    return run


def test_a_key_is_printed_once_and_only_its_hash_is_kept_where_others_cannot_read_it(keys, path):
    status, key, _ = keys("add", "team", "--scope", "infer", "--model", "digits", "--rate", "50", "--concurrency", "8")
    assert status == 0
    key = key.strip()
    assert key.startswith("quartet_")
    assert len(key) > 50
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (entry,) = file.read(path)
    assert entry.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert (entry.scopes, entry.models, entry.rate, entry.at_once, entry.concurrency) == (("infer",), ("digits",), 50, 50, 8)
    assert keys("add", "team")[::2] == (1, f"keys: {path}: there is a key 'team': revoke it, or give another name\n")


def test_keys_are_listed_without_secrets_and_revoked_by_name(keys, path):
    keys("add", "a", "--scope", "admin", "--scope", "read")
    keys("add", "b", "--rate", "0.5")
    _, listed, _ = keys("list")
    assert listed.splitlines()[0].startswith("a  (admin, read)  for all models  since 2")
    assert "b  (infer)  for all models  0.5 requests/s, 1 at once" in listed
    assert keys("revoke", "c") == (1, "", f"keys: {path}: no key 'c'; there are a, b\n")
    assert keys("revoke", "a")[0] == 0
    assert [key.name for key in file.read(path)] == ["b"]


def test_a_file_that_is_there_keeps_its_mode_and_a_link_stays_a_link(keys, path, tmp_path):
    keys("add", "a")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert main(["--keys", str(link), "add", "b"]) == 0
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [key.name for key in file.read(path)] == ["a", "b"]
    assert sorted(os.listdir(tmp_path)) == ["keys.json", "link"], "nothing is left lying about"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "a/b"], "name: 'a/b' is no name: letters, digits"),
        (["add", "x", "--burst", "3"], "burst needs a rate"),
        (["add", "x", "--rate", "0"], "rate: Input should be greater than 0"),
        (["list"], "make it with `python -m service.keys"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(keys, path, arguments, message):
    status, _, said = keys(*arguments)
    assert status == 1
    assert message in said
    assert not path.exists()


def test_every_fault_of_a_file_is_named_and_no_secret_shown(path):
    entry = {"name": "a", "sha256": "0" * 64}
    for text, message in (
        ("{", "Invalid JSON"),
        (
            json.dumps({"keys": [{**entry, "sha256": "quartet_pasted", "scope": "x"}]}),
            "keys.0.sha256: no SHA-256 .*keys.0.scope: Extra",
        ),
        (json.dumps({"keys": [entry, {**entry, "sha256": "1" * 64}]}), "name 'a' stands there twice"),
        (json.dumps({"keys": [entry, {**entry, "name": "b"}]}), "sha256 '0+' stands there twice"),
        (json.dumps({"keys": [{**entry, "scopes": []}]}), "keys.0.scopes: Tuple should have at least 1 item"),
    ):
        path.write_text(text)
        with pytest.raises(KeysError, match=message) as caught:
            file.read(path)
        assert "pasted" not in str(caught.value)
