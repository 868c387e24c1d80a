"""From a body and its Content-Type to a model's input tensors: which forms one served model takes, and how each is read."""

from __future__ import annotations

from modelrepo.manifest import Manifest, Tokenize
from modelrepo.preprocessing import Columns, Standardize
from modelrepo.repository import ModelVersion
from modelrepo.tensors import Array, Tensors, TensorSpec
from service.codec import instances, media, options
from service.codec.instances import Instances, Numbers
from service.codec.kind import Kind
from service.codec.options import Options
from service.errors import InvalidRequest, UnsupportedMediaType

JSON = "application/json"
BRIGHT = 128  # a picture data set whose golden rows stay below half of 255 was most likely scaled to something else
AS_JSON = (JSON, "application/x-www-form-urlencoded", "")  # the second is what `curl -d` says unless told otherwise


class Reader:
    """What one version takes: numbers in JSON always, and the kind of data it was trained on."""

    def __init__(self, published: ModelVersion, goldens: Tensors) -> None:
        """`goldens` are the inputs of its golden rows. Raises CorruptVersion where its tokenizer cannot be used."""
        manifest = published.manifest
        self._signature = manifest.signature
        self._task = manifest.task
        self._numbers = Numbers(manifest.signature)
        self.kind, self._note = _kind(published, goldens)
        self.media_types = (JSON, *(self.kind.media_types if self.kind else ()))

    def quick(self, body: bytes, content_type: str, query: str, max_rows: int) -> Instances | None:
        """The request, where decoding it takes no longer than a millisecond or so; else None, and `decode` reads it in a thread.

        Raises as `decode` does.
        """
        if content_type == JSON or media.name(content_type) in AS_JSON:
            read = self._numbers.decode(body, max_rows)
            if read is not None:
                return self._complete(read, query)
        if self.kind is not None and len(body) > self.kind.quick_bytes:
            return None
        return self.decode(body, content_type, query, max_rows)

    def decode(self, body: bytes, content_type: str, query: str, max_rows: int) -> Instances:
        """The request, from its body, its Content-Type and its query string, both empty where there is none.

        Raises InvalidRequest, Unprocessable for values the model does not take, PayloadTooLarge beyond `max_rows` instances,
        UnsupportedMediaType for other types.
        """
        media_type = media.name(content_type)
        if media_type in AS_JSON:
            try:
                read = self._numbers.decode(body, max_rows)
                if read is None:
                    read = instances.decode(body, self._signature, max_rows, self.kind)
            except InvalidRequest as error:
                if media_type == JSON or self.kind is None or body.lstrip()[:1] in (b"{", b"["):
                    raise
                raise InvalidRequest(f"{error}; for another form say Content-Type: {' or '.join(self.media_types[1:])}") from None
        elif self.kind is not None and media_type in self.kind.media_types:
            rows, asked = self.kind.read(body, content_type, max_rows)
            read = Instances(instances.stack(self._signature, rows), *asked)
        else:
            raise UnsupportedMediaType(
                f"Content-Type {media_type!r} is not taken; this model takes {', '.join(self.media_types)}{self._note}"
            )
        return self._complete(read, query)

    def texts(self, name: str, array: Array) -> Tensors | None:
        """A BYTES tensor of the Open Inference Protocol as the tokens of its texts, with their mask; None where none are taken.

        Raises InvalidRequest or PayloadTooLarge.
        """
        if not self.takes_texts(name):
            return None
        rows: list[Array] = getattr(self.kind, "elements")(name, array)  # noqa: B009  # of `Texts`, imported only where needed
        return instances.stack(self._signature, rows) if rows else None

    def takes_texts(self, name: str) -> bool:
        """Whether this input takes BYTES in place of its tokens."""
        return hasattr(self.kind, "elements") and name == self._signature.value_inputs[0].name

    def _complete(self, read: Instances, query: str) -> Instances:
        """With the options of the query string, and checked."""
        if query:
            top_k, explain = Options(read.top_k, read.explain).joined(options.from_query(query))
            read = read._replace(top_k=top_k, explain=explain)
        if read.top_k is not None:
            options.check_top_k(read.top_k, self._task)
        if self.kind is not None:
            self.kind.check(read.inputs[self._signature.value_inputs[0].name])
        return read


def _kind(published: ModelVersion, goldens: Tensors) -> tuple[Kind | None, str]:
    """What a model takes besides numbers, and what a caller should know who expected more."""
    manifest = published.manifest
    signature = manifest.signature
    (spec, *more) = signature.value_inputs
    step = next((step for step in manifest.preprocessing if step.input == spec.name), None)
    # Each of these is imported where it is needed: the tokenizer and Pillow take a while to load.
    match step:
        case _ if more:
            return None, ""
        case Columns():
            from service.codec.table import Table

            return Table(spec.name, step.columns), ""
        case Tokenize() if signature.length is not None:
            from service.codec.text import Texts

            return Texts(published.path / step.file.path, spec, signature.length.max), ""
        case Standardize() if (size := _picture_size(spec)) is not None:
            largest = float(goldens[spec.name].max())
            if not BRIGHT <= largest <= 255:
                return None, f": its pixels are no bytes (they go up to {largest:g}), so it would misread a picture file"
            from service.codec.pictures import Pictures

            return Pictures(*size, resize=_resized(manifest)), ""
    return None, ""


def _picture_size(spec: TensorSpec) -> tuple[int, int, int] | None:
    """Channels, height and width where the input is pictures, grey or in colour."""
    match spec.shape[1:]:
        case (1 | 3 as channels, int() as height, int() as width) if spec.dtype == "float32":
            return channels, height, width
    return None


def _resized(manifest: Manifest) -> bool:
    """Whether training resized its pictures (`--image-size`)."""
    source = manifest.lineage.config.get("source")
    return isinstance(source, dict) and source.get("image_size") is not None
