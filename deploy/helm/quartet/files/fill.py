"""Makes a folder hold the published versions of a source, and no others: `fill.py SOURCE FOLDER [SHA256]`.

SOURCE is a folder, or the URL of a tar archive (plain, gz, bz2 or xz) with NAME/VERSION/manifest.json anywhere in it. Needs
nothing but Python 3.11. A version is copied beside its place and renamed, so that pods which share FOLDER see it whole or not at
all; one that is there already stays, with the engines built for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

MANIFEST = "manifest.json"


def main(arguments: list[str]) -> int:
    """0 once the folder is as the source; 1 with a message, and the folder as before, where the source cannot be had."""
    source, folder, checksum = arguments[0], Path(arguments[1]), arguments[2] if len(arguments) > 2 else ""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fill-") as temporary:
        try:
            found = Path(source) if "://" not in source else fetch(source, checksum, Path(temporary))
            manifests = [path for path in found.glob(f"**/{MANIFEST}") if path.parent.name.isdecimal()]
            versions = {path.parent.relative_to(path.parents[2]): path.parent for path in manifests}
            if not versions:
                raise ValueError(f"no NAME/VERSION/{MANIFEST} in it: give a repository that `python -m export` published to")
            mirror(versions, folder, Path(temporary))
        except (OSError, ValueError, tarfile.TarError) as error:
            print(f"{source}: {error}", file=sys.stderr)
            return 1
    print(f"{folder} holds {', '.join(sorted(map(str, versions)))}")
    return 0


def fetch(url: str, checksum: str, temporary: Path) -> Path:
    """The folder that the archive was unpacked to. Raises ValueError where it is another than the checksum says."""
    headers = {"Authorization": os.environ["PULL_AUTHORIZATION"]} if "PULL_AUTHORIZATION" in os.environ else {}
    archive = temporary / "archive"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer, archive.open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum and found != checksum.lower():
        raise ValueError(f"its sha256 is {found}, not {checksum}: set models.pull.sha256 to that of the archive you trust")
    unpacked = temporary / "unpacked"
    unpack(archive, unpacked)
    archive.unlink()
    return unpacked


def unpack(archive: Path, folder: Path) -> None:
    """The plain files of an archive: no links, no devices, no owners. Raises ValueError for one that would lie outside `folder`.

    Python 3.11 has a filter of its own for that, but only from its fourth patch on, which Debian 12 has not.
    """
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            target = Path(os.path.normpath(folder / member.name))
            if not target.is_relative_to(folder):
                raise ValueError(f"{member.name!r} would lie outside of the folder: make the archive with relative paths")
            if content := tar.extractfile(member) if member.isfile() else None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)


def mirror(versions: dict[Path, Path], folder: Path, temporary: Path) -> None:
    """Copy what `folder` lacks, by NAME/VERSION, and remove what the source has not, or nobody could go back to an older one."""
    for place, version in versions.items():
        target = folder / place
        if target.exists() and same(version, target):
            continue
        staged = temporary / str(place).replace(os.sep, "@")
        shutil.copytree(version, staged)
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rename(temporary / f"{staged.name}@before")
        staged.rename(target)
    for manifest in folder.glob(f"[!.]*/*/{MANIFEST}"):
        if manifest.parent.relative_to(folder) not in versions:
            shutil.rmtree(manifest.parent)
    for model in folder.glob("[!.]*"):
        if model.is_dir() and not any(model.glob("[!.]*")):
            shutil.rmtree(model)


def same(version: Path, copied: Path) -> bool:
    """Whether a version was copied already: the same manifest, which has the checksums of all files, and no file cut short."""
    try:
        if (version / MANIFEST).read_bytes() != (copied / MANIFEST).read_bytes():
            return False
        files = [path for path in version.rglob("*") if path.is_file()]
        return all(path.stat().st_size == (copied / path.relative_to(version)).stat().st_size for path in files)
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
