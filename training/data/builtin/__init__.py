"""Data sets known by name; all but Fashion-MNIST ship with the dependencies or are generated."""

from __future__ import annotations

from collections.abc import Callable

from training.data.builtin.bundled import breast_cancer, diabetes, digits, digits_rows, iris, wine
from training.data.builtin.fashion import fashion_mnist
from training.data.builtin.generated import adding, adding_100, circles, moons, recall, spirals, xor
from training.data.dataset import Dataset
from training.data.forecasting import sunspots
from training.data.listops import listops

BUILTIN: dict[str, Callable[[], Dataset]] = {
    "adding": adding,
    "adding-100": adding_100,
    "breast-cancer": breast_cancer,
    "circles": circles,
    "diabetes": diabetes,
    "digits": digits,
    "digits-rows": digits_rows,
    "fashion-mnist": fashion_mnist,
    "iris": iris,
    "listops": listops,
    "moons": moons,
    "recall": recall,
    "spirals": spirals,
    "sunspots": sunspots,
    "wine": wine,
    "xor": xor,
}
