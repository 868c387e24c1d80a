"""Signatures of versions: manifest.sig beside the manifest, whose hashes of all files make one signature stand for all of them.

ED25519 (RFC 8032) over a line that says what is signed, then the exact bytes of the manifest:

    quartet version digits-cnn:3\\n{…manifest.json…}

The name and the number are signed too, or whoever may write to a store could pass an old version off as a new one, or one model
for another. A version may have several signatures; adding one changes nothing else, as manifest.sig is no file that a manifest
names. Engines that are added later are signed the same way, in engines.sig beside their engines.json.

Keys are PEM files, as `python -m modelrepo keygen` and `openssl genpkey -algorithm ed25519` make them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from modelrepo.errors import RepositoryError, UntrustedVersion
from modelrepo.tensors import Strict

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURES = "manifest.sig"
ENGINES_SIGNATURES = "engines.sig"
KEY_FILES = ("*.pem", "*.pub")


class KeyFailure(RepositoryError):
    """A key that cannot be read, written or used."""


class KeySignature(Strict):
    """What one key says. `key` is the sha256 of the raw public key, `signature` base64 of the 64 bytes."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signed: str
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class Signatures(Strict):
    """manifest.sig and engines.sig."""

    format_version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    signatures: tuple[KeySignature, ...]

    @classmethod
    def from_json(cls, text: bytes | None, source: str) -> Signatures:
        """Read such a file, or none. Raises UntrustedVersion where it cannot be one."""
        if text is None:
            return cls(signatures=())
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UntrustedVersion(
                f"{source} is no file of signatures ({error.errors()[0]['msg']}): remove it and sign again"
            ) from None

    def to_json(self) -> bytes:
        """The bytes of the file."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    def joined(self, others: Signatures) -> Signatures:
        """These and those of `others` by other keys."""
        mine = {signature.key for signature in self.signatures}
        return Signatures(signatures=(*self.signatures, *(other for other in others.signatures if other.key not in mine)))


@dataclass(frozen=True)
class Statement:
    """What is signed: `kind` is `version`, or `engines` of one for a machine; `content` the bytes of its JSON file."""

    kind: Literal["version", "engines"]
    name: str
    version: int
    content: bytes

    @property
    def message(self) -> bytes:
        return f"quartet {self.kind} {self.name}:{self.version}\n".encode() + self.content

    def __str__(self) -> str:
        return (
            f"{self.name}:{self.version}" if self.kind == "version" else f"the set of engines added to {self.name}:{self.version}"
        )


class TrustedKeys:
    """The public keys in a PEM file, or in the *.pem and *.pub files of a folder.

    They are read anew for every check, so that a key is added or withdrawn by changing the files.
    """

    def __init__(self, path: Path) -> None:
        """Raises KeyFailure where there is no key in it."""
        self._path = path
        self.read()

    def read(self) -> dict[str, Ed25519PublicKey]:
        """The keys by their ids. Raises KeyFailure."""
        files = sorted({file for form in KEY_FILES for file in self._path.glob(form)}) if self._path.is_dir() else [self._path]
        keys = [key for file in files for key in _public_keys(file)]
        if not keys:
            raise KeyFailure(f"{self._path} holds no keys ({', '.join(KEY_FILES)}): make one with `python -m modelrepo keygen`")
        return {key_id(key): key for key in keys}

    def check(self, statement: Statement, signatures: Signatures) -> list[str]:
        """The ids of the trusted keys whose signatures are valid. Raises UntrustedVersion where there is none, KeyFailure."""
        keys = self.read()
        known = [signature for signature in signatures.signatures if signature.key in keys]
        valid = [signature.key for signature in known if _valid(keys[signature.key], signature, statement)]
        if valid:
            return valid
        if known:
            raise UntrustedVersion(f"{statement} is not what {_short(known)} signed: it was altered, renamed or renumbered")
        found = f"signed by {_short(signatures.signatures)} only" if signatures.signatures else "not signed"
        raise UntrustedVersion(f"{statement} is {found}, and not by a key in {self._path}: sign it with `python -m modelrepo sign`")


def generate(path: Path) -> str:
    """Make a key pair: the private key in a new file `path`, the public one beside it as `path`.pub; returns its id.

    Raises KeyFailure where a file is there already or cannot be written.
    """
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    for target, mode, content in (
        (path, 0o600, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        (public_path(path), 0o644, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
    ):
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise KeyFailure(f"{target} cannot be made ({error.strerror}): give another name") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return key_id(public)


def public_path(private: Path) -> Path:
    """Where `generate` puts the public key."""
    return private.with_name(private.name + ".pub")


def private_key(path: Path) -> Ed25519PrivateKey:
    """A private key from its PEM file. Raises KeyFailure."""
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it has a password
        raise KeyFailure(f"{path} is no private key to sign with ({error}): make one with `python -m modelrepo keygen`") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFailure(f"{path} is a key of another kind than ed25519: make one with `python -m modelrepo keygen`")
    return key


def signed(statement: Statement, key: Ed25519PrivateKey, before: Signatures) -> Signatures:
    """The signatures with that of `key`, in place of an earlier one of the same key."""
    made = KeySignature(
        key=key_id(key.public_key()),
        signed=datetime.now(UTC).isoformat(timespec="seconds"),
        signature=base64.b64encode(key.sign(statement.message)).decode(),
    )
    return Signatures(signatures=(made,)).joined(before)


def key_id(key: Ed25519PublicKey) -> str:
    """sha256 of the raw public key, in hex."""
    return sha256(key.public_bytes_raw()).hexdigest()


def _valid(key: Ed25519PublicKey, signature: KeySignature, statement: Statement) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(signature.signature), statement.message)
    except InvalidSignature:
        return False
    return True


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    """Every public key in a PEM file, one after the other."""
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        blocks = [block + b"-----END PUBLIC KEY-----\n" for block in path.read_bytes().split(b"-----END PUBLIC KEY-----")[:-1]]
        keys = [load_pem_public_key(block.lstrip()) for block in blocks]
    except (OSError, ValueError) as error:
        raise KeyFailure(f"{path} holds no public key ({error}): give the .pub file that keygen made") from None
    if others := [key for key in keys if not isinstance(key, Ed25519PublicKey)]:
        raise KeyFailure(f"{path} holds a key of another kind than ed25519 ({type(others[0]).__name__}): remove it")
    return [key for key in keys if isinstance(key, Ed25519PublicKey)]


def _short(signatures: Iterable[KeySignature]) -> str:
    return ", ".join(signature.key[:16] for signature in signatures)


def _require() -> None:
    """Raises KeyFailure where the library is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise KeyFailure("signatures need the package cryptography: pip install 'quartet[sign]'") from None
