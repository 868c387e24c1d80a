"""What can be wrong with a repository or with tensors, as exceptions.

    QuartetError
    ├── RepositoryError            the repository as a whole: missing, unreadable, full
    │   ├── ModelNotFound
    │   ├── VersionNotFound
    │   ├── ManifestError          manifest.json does not say what it must
    │   ├── CorruptVersion         a file is missing, torn or altered
    │   ├── UntrustedVersion       no valid signature of a trusted key
    │   └── StoreError             a remote store cannot be read or written now
    │       └── CacheFull          its copies here have no room for another
    └── SignatureError             tensors that do not fit a model's signature
        ├── WrongTensor            another name, dtype, rank or fixed size: not this model's kind of input
        └── OutOfRange             the right kind, with a value or size beyond what the model takes

Every message names the thing, the value and the fix, and may be shown to whoever caused it.
"""


class QuartetError(Exception):
    """Base of every error Quartet raises on purpose."""


class RepositoryError(QuartetError):
    """The repository cannot be read or written."""


class ModelNotFound(RepositoryError):
    """No model of that name has a published version."""


class VersionNotFound(RepositoryError):
    """The model exists; the version asked for does not."""


class ManifestError(RepositoryError):
    """A manifest that is not valid; the message lists every key at fault."""


class CorruptVersion(RepositoryError):
    """A published file is missing or differs from its recorded sha256 or size."""


class UntrustedVersion(RepositoryError):
    """A version without a valid signature of a trusted key."""


class StoreError(RepositoryError):
    """A remote store that cannot be reached, read or written at this moment: another try may succeed."""


class CacheFull(StoreError):
    """The copies of a store have no room for another version, as those there are in use."""


class SignatureError(QuartetError, ValueError):
    """Tensors that do not fit a signature."""


class WrongTensor(SignatureError):
    """A tensor of another name, dtype, rank or fixed size than the signature's."""


class OutOfRange(SignatureError):
    """A tensor of the right kind whose size or values the model does not take."""
