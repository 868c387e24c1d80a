from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.__main__ import main
from training.distributed import World, joined

ROOT = Path(__file__).parents[2]
OPTIONS = ["mlp", "--data", "spirals", "--epochs", "2", "--batch-size", "300", "--model.norm", "layer", "--no-pictures"]


def curve(run):
    with (run / "metrics.csv").open() as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


@pytest.mark.slow
def test_two_processes_one_of_them_killed_give_the_curve_of_a_single_one(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main([*OPTIONS, "--out", str(alone)]) == 0
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    script = [str(ROOT / "tests/training/kill_once.py"), str(tmp_path / "marker")]
    done = subprocess.run(
        [sys.executable, *command, *script, *OPTIONS, "--out", str(together), "--resume", "--save-every", "4"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search("going on after step 1[02]", done.stdout), "step 12 was saved only if the first process was that far"
    assert done.stdout.count("test accuracy") == 1, "only the first process reports"
    for one, two in zip(curve(alone), curve(together), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    weights = [checkpoint.load(run).weights for run in (alone, together)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-5, rtol=0)


def test_the_processes_shares_are_the_batch():
    index = torch.arange(7)
    parts = [World(rank, 3, torch.device("cpu")).part(index) for rank in range(3)]
    assert torch.equal(torch.cat(parts), index)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asking_for_a_gpu_where_there_is_none_says_so():
    with pytest.raises(ValueError, match="PyTorch sees no GPU"), joined("cuda"):
        pass
