"""Fashion-MNIST (Xiao et al. 2017): fetched once, checked by checksum, then read from a folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from modelrepo.tasks import Multiclass
from training.data.dataset import DataError, Dataset
from training.data.idx import load_idx
from training.data.source import Source

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"  # the authors' place; it knows no https, hence sha256
FILES = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
TIMEOUT = 30  # seconds without a byte


def fashion_mnist() -> Dataset:
    """70,000 grey 28x28 pictures of ten kinds of clothing; official test split of 10,000, and 6,000 for validation.

    The four files (30 MB) are taken from `$QUARTET_DATA/fashion-mnist`, by default ~/.cache/quartet/fashion-mnist, and
    fetched to there where they are missing. Raises DataError naming the URL where that fails, or the file where its checksum
    is another.
    """
    folder = Path(os.environ.get("QUARTET_DATA") or Path.home() / ".cache" / "quartet") / "fashion-mnist"
    for name, sha256 in FILES.items():
        if not (folder / name).exists():
            fetch(f"{URL}/{name}", folder / name, sha256)
        elif (found := _checksum(folder / name)) != sha256:
            raise DataError(f"{folder / name}: has the sha256 {found}, not {sha256}; remove it, and it is fetched anew")
    read = load_idx(folder, Source())
    return replace(read, name="fashion-mnist", task=Multiclass(labels=LABELS))


def fetch(url: str, path: Path, sha256: str) -> None:
    """Download to `path`, which appears only once it is whole and right. Raises DataError naming the URL."""
    advice = f"try again, or put the file at {path} yourself (QUARTET_DATA names another folder than {path.parent.parent})"
    staged = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(url, timeout=TIMEOUT) as answer, tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            staged = Path(file.name)
            file.write(answer.read())
            file.flush()
            os.fsync(file.fileno())
        if (found := _checksum(staged)) != sha256:
            raise DataError(f"{url}: came with the sha256 {found}, not {sha256}; {advice}")
        staged.replace(path)
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"{url}: cannot be fetched: {error}; {advice}") from error
    finally:
        if staged:
            staged.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
