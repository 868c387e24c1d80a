"""Where training rows come from: `load(name)` gives a Dataset, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from training.data.arrays import load_arrays
from training.data.builtin import BUILTIN
from training.data.dataset import DataError, Dataset
from training.data.forecasting import load_forecast
from training.data.idx import is_images_file, load_idx
from training.data.images import load_images
from training.data.nested import holds_nested, load_nested
from training.data.series import load_series
from training.data.source import Source
from training.data.tables import SUFFIXES, near, parquet_files
from training.data.tabular import load_table
from training.data.text import load_text
from training.data.uea import load_ts

__all__ = ["BUILTIN", "DataError", "Dataset", "Source", "load"]

FORMATS = (
    f"tables ({', '.join(SUFFIXES)}, or a folder of .parquet), arrays (.npz), images (IDX files, or a folder with a folder per "
    "class), series (.ts); "
    "--text, --series and --horizon say what else a table may be"
)


@dataclass(frozen=True)
class Reader:
    """A way to read a path, and the options of Source it takes besides those of the splits."""

    what: str
    load: Callable[[Path, Source], Dataset]
    takes: tuple[str, ...] = ()


SPLITS = ("test_data", "validation_data", "validation", "test")
TABLE = Reader("a table", load_table, ("target", "task", "drop", "header", "group"))
TEXT = Reader(
    "text", load_text, ("target", "task", "header", "group", "text", "tokenizer", "vocabulary", "lowercase", "max_length")
)
SERIES = Reader("a table of series", load_series, ("target", "task", "drop", "header", "group", "series"))
FORECAST = Reader("a forecast", load_forecast, ("target", "drop", "header", "series", "horizon", "window"))
ARRAYS = Reader("an .npz archive", load_arrays, ("task",))
IDX = Reader("IDX data", load_idx)
IMAGES = Reader("a folder of images", load_images, ("image_size",))
NESTED = Reader("rows that hold arrays", load_nested, ("target", "task"))
TS = Reader("a .ts file", load_ts)


def load(name: str, source: Source = Source()) -> Dataset:  # noqa: B008 - frozen
    """The built-in data set of that name, else what lies at that path; `./digits` is a path, `digits` a name.

    Raises DataError for what there is not, for an option that the data would not heed, and for data that cannot be read.
    """
    if name in BUILTIN:
        _refuse_options(source, f"--data {name} is built in, with its own splits", ())
        return BUILTIN[name]()
    path = Path(name)
    if not name or not path.exists():
        where = "no such file or folder; " if "/" in name or path.suffix else ""
        raise DataError(
            f"no data called {name!r}{near(name, BUILTIN)}: {where}built in are {', '.join(BUILTIN)}; a path may lead to {FORMATS}"
        )
    if pair := _ts_pair(path):
        path, test = pair
        if source.test_data:
            raise DataError(f"{name}: holds the official test split {test.name}; leave out --test-data {source.test_data}")
        source = replace(source, test_data=test)
    reader = _reader(path, source)
    _refuse_options(source, f"{name} is read as {reader.what}", (*SPLITS, *reader.takes))
    return reader.load(path, source)


def _reader(path: Path, source: Source) -> Reader:
    if path.is_dir() and not parquet_files(path):
        return IDX if any(is_images_file(file) for file in path.iterdir()) else IMAGES
    if path.is_dir() or path.suffix in SUFFIXES:
        if holds_nested(path) and not (source.text or source.horizon or source.series):
            return NESTED
        return TEXT if source.text else FORECAST if source.horizon else SERIES if source.series else TABLE
    if path.suffix == ".npz":
        return ARRAYS
    if path.suffix == ".ts":
        return TS
    if is_images_file(path):
        return IDX
    raise DataError(f"{path}: its name does not say what it is; known are {FORMATS}")


def _ts_pair(path: Path) -> tuple[Path, Path] | None:
    """The official split of a folder as the UEA archive has it: NAME_TRAIN.ts and NAME_TEST.ts."""
    train, test = (sorted(path.glob(f"*_{part}.ts")) if path.is_dir() else [] for part in ("TRAIN", "TEST"))
    return (train[0], test[0]) if len(train) == len(test) == 1 else None


def _refuse_options(source: Source, why: str, takes: tuple[str, ...]) -> None:
    """Raises DataError for an option that says something and would not be heeded."""
    for field in fields(source):
        if field.name not in takes and getattr(source, field.name) != field.default:
            raise DataError(f"{why}: --{field.name.replace('_', '-')} does nothing here, leave it out")
