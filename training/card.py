"""MODEL_CARD.md: what a checkpoint records about itself, in the sections of Hugging Face's model cards (Mitchell et al. 2019).

Nothing is claimed that is not recorded: what the model is for, and for whom, nobody has said. Limits are those that follow
from the facts, such as the lengths it takes. A fact that is not there leaves its line out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from modelrepo.tasks import Metric
from training import atomic

LISTED = 40  # labels or columns named in full; of more, the first and how many there are
ENDED = {
    "epochs": "all epochs done",
    "patience": "no better epoch for as long as --patience allows",
    "max-time": "--max-time was up",
}
KINDS = {"features": "a table row", "image": "a picture", "sequence": "a numeric sequence", "tokens": "a sequence of tokens"}
# What the settings' own sections say better, or what does not change the result.
ELSEWHERE = ("model", "out", "control", "data", "seed")

Facts = Mapping[str, Any]


def write(path: Path, facts: Mapping[str, JsonValue], command: str) -> None:
    """Write the card to `path` from a checkpoint's facts (`Facts` as plain JSON) and the command line that trained it.

    Pictures that lie in `pictures/` beside it are shown. Raises OSError.
    """
    pictures = [
        name for name in ("confusion", "calibration", "predicted", "curves") if (path.parent / f"pictures/{name}.png").exists()
    ]
    sections = {
        "Model details": _model(facts),
        "Data": _data(facts),
        "Training procedure": _training(facts),
        "Evaluation": [*_evaluation(facts), *(f"\n![{name}](pictures/{name}.png)" for name in pictures)],
        "Limits": [f"- {limit}" for limit in _limits(facts)],
        "Environment": _environment(facts),
        "How to reproduce": _reproduce(facts, command),
    }
    text = [
        _front(facts),
        f"# {_text(_name(facts))}",
        *(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items() if lines),
    ]
    atomic.write(path, ("\n\n".join(text) + "\n").encode())


def _front(facts: Facts) -> str:
    """The metadata that Hugging Face's hub reads, in YAML, of which JSON values are a part."""
    metadata = {"library_name": "pytorch", "tags": ["quartet", facts["family"], facts["task"]["type"]]}
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in metadata.items()), "---"])


def _model(facts: Facts) -> Iterator[str]:
    kind, task = facts["kind"], facts["task"]
    yield from _lines(
        ("Family", facts["family"]),
        ("Parameters", f"{facts['parameters']:,}" if facts.get("parameters") is not None else None),
        ("Input", f"{KINDS[kind['input']]}: {_shape(kind)}"),
        ("Answer", _answer(task)),
        ("Trained", facts.get("created")),
        ("Code", _code(facts)),
    )
    yield "\n" + "\n".join(_table(("Model option", "Value"), _flat(facts["model"])))


def _shape(kind: Facts) -> str:
    """The input tensor, in words."""
    channels = len(kind.get("mean", ()))
    match kind["input"]:
        case "features":
            return f"`features` [rows, {len(kind['columns'])}] float32, NaN where a value is missing"
        case "image":
            return f"`image` [rows, {channels}, {kind['height']}, {kind['width']}] float32, raw pixels"
        case "sequence":
            return f"`sequence` [rows, steps, {channels}] float32, raw values"
        case _:
            return f"`tokens` [rows, tokens] int64, below {kind['vocabulary']}" + (", from text" if kind.get("tokenizer") else "")


def _answer(task: Facts) -> str:
    match task["type"]:
        case "regression":
            return f"a number for {_listed(task['targets'])}"
        case "multilabel":
            return f"any of {_listed(task['labels'])}"
        case _:
            return f"one of {_listed(task['labels'])}"


def _code(facts: Facts) -> str | None:
    if not facts.get("git_commit"):
        return None
    return f"commit {facts['git_commit']}" + (", with changes that were not committed" if facts.get("git_dirty") else "")


def _data(facts: Facts) -> Iterator[str]:
    yield from _lines(
        ("Data", facts["data"]),
        ("Fingerprint", f"sha256 {facts['fingerprint']} over all splits"),
        ("Held-out rows", f"sha256 {facts['holdout_sha256']}" if facts.get("holdout_sha256") else None),
        *((name, value) for name, value in facts.get("handling", {}).items() if name != "rows"),
    )
    yield "\n" + "\n".join(_table(("Split", "Rows"), ((split, f"{count:,}") for split, count in facts["rows"].items())))
    columns = facts["kind"].get("columns", ())
    if columns:
        shown = ((column["name"], *_column(column), "yes" if column["missing"] else "no") for column in columns[:LISTED])
        yield "\n" + "\n".join(_table(("Column", "Type", "Values", "Missing in training"), shown))
        if len(columns) > LISTED:
            yield f"\nand {len(columns) - LISTED} columns more."


def _column(column: Facts) -> tuple[str, str]:
    if column["type"] == "categorical":
        return "categorical", _listed(column["categories"])
    return "numeric", f"mean {column['mean']:.4g}, standard deviation {column['scale']:.4g}"


def _training(facts: Facts) -> Iterator[str]:
    yield from _lines(
        ("Epochs", facts.get("epochs")),
        ("Ended", ENDED.get(facts.get("ended") or "")),
        ("Kept", f"the weights of epoch {facts['epoch']}"),
        ("Time", _duration(facts["seconds"]) if facts.get("seconds") is not None else None),
        ("Seed", facts["seed"]),
    )
    settings = {name: value for name, value in facts["config"].items() if name not in ELSEWHERE}
    yield "\n" + "\n".join(_table(("Setting", "Value"), _flat(settings)))


def _evaluation(facts: Facts) -> Iterator[str]:
    test, validation, rows = facts.get("test"), facts["validation"], facts["rows"]
    metrics = {**({test["name"]: test["value"]} if test else {}), **(facts.get("metrics") or {})}
    if metrics:
        yield f"On the {rows['test']:,} rows of the test split, which chose nothing:\n"
        yield from _table(("Metric", "Value"), ((name, f"{value:.4g}") for name, value in metrics.items()))
        yield ""
    if test and test["floor"] is not None:
        verdict = "reached" if Metric.model_validate(test).reached() else "missed, so export refuses it"
        yield f"- The floor, test {test['name']} of {test['floor']:g}, is {verdict}."
    if "accuracy" in metrics:
        low, high = _wilson(metrics["accuracy"], rows["test"])
        yield f"- So many rows place the accuracy between {low:.3g} and {high:.3g} with 95 % confidence (Wilson 1927)."
    yield f"- Chosen by validation {validation['name']} of {validation['value']:.4g} on {rows['validation']:,} rows."
    if "temperature" in facts["task"]:
        yield (
            f"- Logits are divided by a temperature of {facts['task']['temperature']:g}, fitted on the validation rows, before "
            "they become probabilities (Guo et al. 2017)."
        )


def _limits(facts: Facts) -> Iterator[str]:
    kind, task = facts["kind"], facts["task"]
    match kind["input"]:
        case "features":
            if whole := [column["name"] for column in kind["columns"] if not column["missing"]]:
                yield f"Missing values of {_listed(whole)} never occurred in training; how it answers them is untested."
            if any(column["type"] == "categorical" for column in kind["columns"]):
                yield "A category that did not occur in training is treated as a missing value."
        case "image":
            size = f"{kind['height']} x {kind['width']} pixels and {len(kind['mean'])} channels"
            yield f"Pictures have {size}; no other size is taken."
        case _:
            unit = "tokens" if kind["input"] == "tokens" else "steps"
            yield f"Sequences have {kind['length']['min']} to {kind['length']['max']} {unit}; no other length is taken."
    if task["type"] in ("multiclass", "binary"):
        yield "It answers with one of its labels whatever it is given; there is none for what belongs to no label."
    if facts.get("git_dirty"):
        yield "It was trained with code that differs from its commit, which alone does not reproduce it."


def _environment(facts: Facts) -> list[str]:
    known = {**facts.get("environment", {}), **facts.get("versions", {})}
    rows = [(name.replace("_", " "), value) for name, value in known.items() if value not in (None, [])]
    return list(_table(("What", "Which"), rows)) if rows else []


def _reproduce(facts: Facts, command: str) -> list[str]:
    checkout = [f"git checkout {facts['git_commit']}"] if facts.get("git_commit") else []
    return ["```sh", *checkout, command, "```"]


def _name(facts: Facts) -> str:
    return Path(str(facts["config"].get("out", ""))).name or f"{facts['data']}-{facts['family']}"


def _lines(*pairs: tuple[str, Any]) -> Iterator[str]:
    """A list of what is known; values that are mappings become lists within it."""
    for name, value in pairs:
        if isinstance(value, Mapping):
            yield f"- {_text(name)}:"
            yield from (f"    - {_text(key)}: {_value(inner)}" for key, inner in value.items())
        elif value is not None:
            yield f"- {_text(name)}: {_value(value)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_value(cell).replace('|', '&#124;') for cell in row)} |"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _listed(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(str(key))}: {_value(inner)}" for key, inner in value.items())
    return _text(value if isinstance(value, str) else json.dumps(value))


def _text(text: str) -> str:
    """Text that Markdown shows as it is: on one line, and never as HTML or a picture."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*")
    return line.replace("\\", "\\\\").replace("[", "\\[") if "](" in line else line


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(_value(name) for name in names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown}, and {len(names) - LISTED} more"


def _flat(config: Facts, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `loss.huber`."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """Interval that holds the true share with 95 % confidence, from a share of so many rows."""
    z = 1.96
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return middle - reach, middle + reach
