"""With QUARTET_COMPILE=1, as in the images, most of what a request passes becomes C, by mypyc, from the same annotated files.

Without it, as everywhere else, nothing does, and no compiler is needed. Every build gets what pyproject.toml says one requires;
so mypy is not among that, but in the extra `compile`, and whoever compiles says `pip install --no-build-isolation`.
"""

import os
import sys

from setuptools import setup

# Not among them is what other classes inherit from. An attribute that may be None must not be read again after a call that may set
# it: mypy takes it for what it was before (the reason for NEVER in protocol.py), and C has no room for None in a float.
COMPILED = [
    "service/admission.py",
    "service/backlog.py",
    "service/batch.py",
    "service/batching.py",
    "service/compute.py",
    "service/costs.py",
    "service/known_heads.py",
    "service/metrics.py",
    "service/model.py",
    "service/parting.py",
    "service/protocol.py",
    "service/remembered.py",
    "service/statistics.py",
    "service/tally.py",
    "service/api/head.py",
    "service/api/quick.py",
    "service/codec/instances.py",
    "service/codec/packing.py",
    "service/codec/plain.py",
    "service/codec/predictions.py",
    "service/codec/reader.py",
]
# An interpreter that has what the files import: whose annotations tell mypy what the values are.
PYTHON = os.environ.get("QUARTET_COMPILE_PYTHON", sys.executable)

if os.environ.get("QUARTET_COMPILE") == "1":
    from mypyc.build import mypycify

    setup(ext_modules=mypycify(["--config-file=mypyc.ini", f"--python-executable={PYTHON}", *COMPILED], debug_level="0"))
else:
    setup()
