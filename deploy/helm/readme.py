"""Writes the table of values into the chart's README from the comments of values.yaml: `python deploy/helm/readme.py`.

The comment above a key says what it is. A map without keys of its own, such as `podLabels: {}`, is one value.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "quartet"
BEGIN, END = "<!-- values: written by deploy/helm/readme.py -->\n", "<!-- end of values -->\n"
KEY = re.compile(r"^( *)([A-Za-z]\w*):")


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and description of every value, in the file's order; groups of values have no default."""
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif (key := KEY.match(line)) and len(key[1]) // 2 <= len(path):
            path = [*path[: len(key[1]) // 2], key[2]]
            found = values
            for name in path:
                found = found[name]
            group = isinstance(found, dict) and bool(found)
            if comment or not group:
                yield ".".join(path), "" if group else json.dumps(found), " ".join(comment)
            comment = []
        else:
            comment = []


def table(text: str) -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | |", "|---|---|---|"]
    for path, default, description in rows(text):
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{path}` | {shown} | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def written(readme: str, values: str) -> str:
    """The README with its table as values.yaml has it now."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + "\n" + table(values) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    path = CHART / "README.md"
    path.write_text(written(path.read_text(), (CHART / "values.yaml").read_text()))
    sys.exit(0)
