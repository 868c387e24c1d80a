"""The folder holds no more than it may, and never half a file."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.capture.files import LEFT_SECONDS, Files


def contents(folder):
    return [path.read_bytes() for path in sorted(folder.rglob("*.parquet"), key=lambda path: path.name)]


def test_the_oldest_files_of_all_models_make_room(tmp_path):
    files = Files(tmp_path, 10)
    for model, content in (("a", b"1111"), ("b", b"2222"), ("a", b"33"), ("b", b"4444")):
        files.add(model, "1", content)
    assert contents(tmp_path) == [b"2222", b"33", b"4444"]
    files.add("a", "2", b"5" * 10)
    assert contents(tmp_path) == [b"5" * 10]
    with pytest.raises(ValueError, match="11 bytes"):
        files.add("a", "2", b"5" * 11)
    assert contents(tmp_path) == [b"5" * 10]


def test_nobody_else_may_read_what_callers_sent(tmp_path):
    Files(tmp_path / "kept", 10).add("a", "1", b"1")
    found = [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]
    assert {oct(path.stat().st_mode & 0o007) for path in found if path.name != ".lock"} == {"0o0"}


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path):
    files = Files(tmp_path, 100)
    files.add("a", "1", b"1")
    left, new = (tmp_path / "a" / "1" / f".{name}.parquet.part" for name in ("left", "new"))
    for path in (left, new):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - LEFT_SECONDS - 1,) * 2)
    files.add("a", "1", b"2")
    assert (left.exists(), new.exists()) == (False, True)


def test_several_writers_keep_to_the_limit_together(tmp_path):
    def write(_):
        files = Files(tmp_path, 50)
        for _ in range(20):
            files.add("a", "1", b"x" * 10)

    with ThreadPoolExecutor(2) as pool:  # a lock of the file system's does not tell them from processes
        assert list(pool.map(write, range(2))) == [None, None]
    assert contents(tmp_path) == [b"x" * 10] * 5
