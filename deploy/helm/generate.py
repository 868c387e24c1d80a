"""Writes what in the chart follows from something else: `python deploy/helm/generate.py`, in an environment that has Quartet.

- the table of values in its README, from the comments of values.yaml. The comment above a key says what it is; a map without keys
  of its own, such as `podLabels: {}`, is one value;
- the service's settings in values.schema.json, from the service's own class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from service.settings import Settings

CHART = Path(__file__).parent / "quartet"
BEGIN, END = "<!-- values: written by deploy/helm/generate.py -->\n", "<!-- end of values -->\n"
KEY = re.compile(r"^( *)([A-Za-z]\w*):")
# What the chart sets by itself, from `models`, `port`, `grpc`, `keys`, `tls` and `capture`.
OWN = {
    *("repository", "port", "pull", "cache", "trusted_keys", "grpc_port"),
    *("keys", "tls_certificate", "tls_key", "tls_client_ca", "health_port", "capture"),
}
CONSTRAINTS = ("type", "enum", "minimum", "maximum", "exclusiveMinimum")


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


def readme(text: str, values: str) -> str:
    """The README with its table as values.yaml has it now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table(values) + "\n" + END + rest.split(END)[1]


def schema(text: str) -> str:
    """The schema with the settings as the service has them now."""
    document = json.loads(text)
    known = Settings.model_json_schema()["properties"]
    document["properties"]["settings"]["properties"] = {
        name: {key: facts[key] for key in CONSTRAINTS if key in facts} for name, facts in known.items() if name not in OWN
    }
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    path = CHART / "README.md"
    path.write_text(readme(path.read_text(), (CHART / "values.yaml").read_text()))
    path = CHART / "values.schema.json"
    path.write_text(schema(path.read_text()))
