"""Where training rows come from: `load(name)` gives a Dataset, whatever its kind."""

from training.data.builtin import BUILTIN
from training.data.dataset import DataError, Dataset
from training.data.source import Source

__all__ = ["BUILTIN", "DataError", "Dataset", "Source", "load"]


def load(name: str, source: Source = Source()) -> Dataset:  # noqa: B008 - frozen
    """The data set of that name. Raises DataError naming the ones there are."""
    if name not in BUILTIN:
        raise DataError(f"no data called {name!r}; built in are {', '.join(sorted(BUILTIN))}")
    return BUILTIN[name]()
