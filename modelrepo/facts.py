"""What a version is, for people, and what differs between two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from modelrepo.manifest import Manifest
from modelrepo.tasks import Regression
from modelrepo.tensors import ShapeRange, TensorSpec

Section = tuple[str, list[str]]

COMPARED: dict[str, Callable[[Manifest], Any]] = {
    "signature": lambda manifest: _dump(manifest.signature),
    "task": lambda manifest: _dump(manifest.task),
    "preprocessing": lambda manifest: [_dump(step) for step in manifest.preprocessing],
    "judged by": lambda manifest: _dump(manifest.metric),
    "metrics": lambda manifest: manifest.metrics,
    "files": lambda manifest: {file.path: f"{size(file.size)}, sha256 {file.sha256[:12]}" for file in manifest.files()},
    "serves as": lambda manifest: _ways(manifest),
    "lineage": lambda manifest: _dump(manifest.lineage),
    "export": lambda manifest: manifest.export,
}
"""What of two versions is compared: headings of `differences`."""


def facts(manifest: Manifest) -> list[Section]:
    """Headings and lines, the most asked for first."""
    lineage, data, metric = manifest.lineage, manifest.lineage.data, manifest.metric
    task = manifest.task
    outcomes = task.targets if isinstance(task, Regression) else task.labels
    floor = "" if metric.floor is None else f" ({'>=' if metric.better == 'higher' else '<='} {metric.floor:g} asked for)"
    return [
        ("family", [manifest.family]),
        ("task", [task.type, f"{len(outcomes)}: {', '.join(outcomes[:12])}{', …' if len(outcomes) > 12 else ''}"]),
        ("judged by", [f"{metric.name} {metric.value:g}{floor}"]),
        ("inputs", [_tensor(spec) for spec in manifest.signature.inputs]),
        ("outputs", [_tensor(spec) for spec in manifest.signature.outputs]),
        ("serves as", _ways(manifest)),
        ("files", [f"{file.path}, {size(file.size)}" for file in manifest.files()]),
        ("metrics", [f"{name} {value:g}" for name, value in manifest.metrics.items()]),
        ("trained", [f"{lineage.created}, seed {lineage.seed}", _commit(lineage.git_commit, lineage.git_dirty)]),
        ("data", [f"{data.name}, {', '.join(f'{rows:,} {split}' for split, rows in data.rows.items())}"]),
    ]


def differences(before: Manifest, after: Manifest) -> list[Section]:
    """What is another in `after`, by heading; empty where nothing is."""
    changes = ((heading, list(_changes("", of(before), of(after)))) for heading, of in COMPARED.items())
    return [(heading, lines) for heading, lines in changes if lines]


def size(number: int) -> str:
    """Bytes as people read them."""
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB"


def _changes(path: str, before: Any, after: Any) -> Iterator[str]:
    """A line for each leaf that came, went or changed."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            yield from _changes(f"{path}.{key}".lstrip("."), before.get(key, ...), after.get(key, ...))
    elif isinstance(before, list) and isinstance(after, list) and not any(isinstance(each, dict) for each in (*before, *after)):
        gone, came = ([each for each in one if each not in other] for one, other in ((before, after), (after, before)))
        if before != after:
            told = [f"- {_shown(each)}" for each in gone] + [f"+ {_shown(each)}" for each in came] or ["in another order"]
            yield f"{path} {', '.join(told)}".strip()
    elif isinstance(before, list) and isinstance(after, list):
        yield from _changes(path, dict(enumerate(before)), dict(enumerate(after)))
    elif before is ...:
        yield f"+ {path} {_shown(after)}"
    elif after is ...:
        yield f"- {path} {_shown(before)}"
    elif before != after:
        yield f"{path} {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _dump(model: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = model.model_dump(mode="json")
    return dumped


def _ways(manifest: Manifest) -> list[str]:
    return [f"{each.artifact} on {each.provider}, {each.precision}" for each in manifest.candidates]


def _tensor(spec: TensorSpec) -> str:
    dims = [f"{dim.axis} {dim.min}-{dim.max}" if isinstance(dim, ShapeRange) else str(dim) for dim in spec.shape]
    return f"{spec.name} {spec.dtype} [{', '.join(dims)}]{', may be left out' if spec.role == 'mask' else ''}"


def _commit(commit: str | None, dirty: bool | None) -> str:
    return f"git {commit[:12]}{', with changes that were not committed' if dirty else ''}" if commit else "not in git"
