"""The figures in BENCHMARKS.md, one file each: `python -m training.benchmarks.NAME` runs ours and what it is compared with."""
