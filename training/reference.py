"""How training rows, and the answers to held-out rows, are spread: what a service will hold its requests against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from modelrepo.measures import Sample, measured, real_steps
from modelrepo.preprocessing import Categorical
from modelrepo.reference import Categories, Measure, Numbers, Reference
from modelrepo.tasks import Binary, Multiclass, Multilabel, Task
from modelrepo.tensors import Array
from training.data.dataset import Dataset, Images, Kind, Rows, Series, Split, Tokens

MOST_FEATURES = 512  # columns, channels or outputs that are watched: the first ones
MOST_VALUES = 1_000_000  # of one feature by which its bins are set; all are counted
BINS, TOKEN_BINS, NAMES = 10, 20, 20
FEWEST = 4
PER_BIN = 20  # values at least, on average, beyond the fewest bins: fewer make an index that chance moves


def describe(dataset: Dataset) -> Reference | None:
    """The training rows, feature by feature: those of the first epoch. None where no feature has a value."""
    split, kind = dataset.as_served or dataset.train(1), dataset.kind
    sample = sample_of(kind, split)
    features = [feature for feature in _features(kind, sample, dataset.handling.get("channels")) if feature is not None]
    if not features:
        return None
    tokens = _runs(sample.values) if isinstance(kind, Tokens) else ()
    if isinstance(kind, Tokens):
        features.append(Numbers(name="unseen tokens", measure="unseen", least=0, bounds=(0,), counts=(0, len(split), 0, 0)))
    return Reference(input=kind.input, rows=len(split), features=tuple(features), tokens=tokens)


def with_predictions(reference: Reference, task: Task, output: Array) -> Reference:
    """With how the answers to held-out rows, `output` [rows, outputs], are spread. No name is taken twice."""
    sample = Sample(output, output=output)
    taken = {feature.name for feature in reference.features}

    def free(name: str) -> str:
        while name in taken:
            name = f"{name}'"
        taken.add(name)
        return name

    found: list[Numbers | Categories | None]
    match task:
        case Multiclass() | Binary():
            found = [_categories(free("prediction"), "label", 0, task.labels, sample)]
        case Multilabel():
            found = [
                _categories(free(f"prediction {label}"), "active", index, ("no", "yes"), sample)
                for index, label in enumerate(task.labels[:MOST_FEATURES])
            ]
        case _:
            found = [
                _numbers(free(f"prediction {target}"), "value", sample, index)
                for index, target in enumerate(task.targets[:MOST_FEATURES])
            ]
    return reference.model_copy(update={"predictions": tuple(feature for feature in found if feature is not None)})


def sample_of(kind: Kind, split: Split) -> Sample:
    """The inputs of a split as they are measured."""
    values = split.inputs[kind.input]
    if "mask" not in split.inputs:
        return Sample(values)
    return Sample(*real_steps([(values, split.inputs["mask"])]))


def _features(kind: Kind, sample: Sample, channels: object) -> Iterable[Numbers | Categories | None]:
    match kind:
        case Rows():
            for index, column in enumerate(kind.columns[:MOST_FEATURES]):
                if isinstance(column, Categorical):
                    yield _categories(column.name, "column", index, column.categories, sample)
                else:
                    yield _numbers(column.name, "column", sample, index)
        case Images():
            count = len(kind.mean)
            for index in range(count):
                yield _numbers("brightness" if count == 1 else f"brightness of channel {index + 1}", "brightness", sample, index)
            yield _numbers("contrast", "contrast", sample)
        case Series():
            yield _numbers("length", "length", sample)
            count = len(kind.mean)
            named = isinstance(channels, list) and len(channels) == count
            for index in range(min(count, MOST_FEATURES)):
                yield _numbers(f"channel {channels[index] if named else index + 1}", "channel", sample, index)
        case Tokens():
            yield _numbers("length", "length", sample)
            yield _numbers("token", "token", sample)


def _numbers(name: str, measure: Measure, sample: Sample, index: int = 0) -> Numbers | None:
    """The spread of a feature; None where it has no finite value."""
    blank = Numbers(name=name, measure=measure, index=index, least=0, bounds=(0,), counts=(0, 0, 0, 0))
    values = measured(blank, sample).values
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    bounds = _bounds(finite, measure == "token")
    empty = {**dict(blank), "least": float(finite.min()), "bounds": bounds, "counts": (0,) * (len(bounds) + 3)}
    return Numbers(**{**empty, "counts": _counted(Numbers(**empty), values)})


def _bounds(values: Array, tokens: bool) -> tuple[float, ...]:
    """Where bins of about the same number of values end, each a value that occurs; a frequent value has a bin of its own."""
    most = max(FEWEST, min(TOKEN_BINS if tokens else BINS, len(values) // PER_BIN))
    chosen = values if len(values) <= MOST_VALUES else np.random.default_rng(0).choice(values, MOST_VALUES, replace=False)
    distinct, counts = np.unique(chosen, return_counts=True)
    if len(distinct) > most:
        shares = counts.cumsum() / len(chosen)
        ends = np.searchsorted(shares, np.arange(1, most) / most - 1e-9)
        frequent = np.flatnonzero(counts > len(chosen) / most)
        ends = np.unique(np.concatenate([ends, frequent - 1, frequent]))
        distinct = distinct[ends[ends >= 0]]
    largest = float(values.max())
    return (*(float(end) for end in distinct if end < largest), largest)


def _categories(name: str, measure: Measure, index: int, names: Sequence[str], sample: Sample) -> Categories:
    """The spread of a feature whose values are the positions of names; the most frequent ones have bins of their own."""
    every = Categories(
        name=name, measure=measure, index=index, names=tuple(names), codes=tuple(range(len(names))), counts=(0,) * (len(names) + 2)
    )
    values = measured(every, sample).values
    counts = np.array(_counted(every, values))[: len(names)]
    most = max(FEWEST, min(NAMES, len(values) // PER_BIN))
    codes = tuple(sorted(int(code) for code in np.argsort(-counts, kind="stable")[:most]))
    kept = {**dict(every), "names": tuple(names[code] for code in codes), "codes": codes, "counts": (0,) * (len(codes) + 2)}
    return Categories(**{**kept, "counts": _counted(Categories(**kept), values)})


def _counted(feature: Numbers | Categories, values: Array) -> tuple[int, ...]:
    """How many of the values lie in each bin."""
    return tuple(int(count) for count in np.bincount(feature.place(values), minlength=len(feature.counts)))


def _runs(tokens: Array) -> tuple[tuple[int, int], ...]:
    """The ids that occur, as first and last of each run."""
    known = np.flatnonzero(np.bincount(tokens))
    parts = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    return tuple((int(part[0]), int(part[-1])) for part in parts)
