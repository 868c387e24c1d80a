"""The figures in BENCHMARKS.md: one file each, `python -m training.benchmarks.NAME`, which runs ours and what it is compared with."""
