"""Faults, made on purpose on real processes under load: `python -m loadtests.drills --help`."""
