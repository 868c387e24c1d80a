"""What happened to one request, for callers who ask: in the response, and as a Server-Timing header (W3C)."""

from __future__ import annotations

from service.batch import Answer
from service.model import ServedModel

Explanation = dict[str, str | int | float | bool]


def explain(model: ServedModel, answer: Answer) -> Explanation:
    """Durations in milliseconds: of the queue, of making the batch with its padding, of running it; and what ran it."""
    batch = answer.batch
    if answer.cached:
        return {"queue_ms": 0.0, "pad_ms": 0.0, "compute_ms": 0.0, "cached": True, **_served(model)}
    found: Explanation = {
        "queue_ms": round(answer.waited * 1e3, 3),
        "pad_ms": round(batch.merging * 1e3, 3),
        "compute_ms": round(batch.computing * 1e3, 3),
        "batch_rows": batch.rows,
        "batch_bucket": model.manifest.signature.batch.bucket(batch.size),
        "padding_share": round(batch.padding, 4),
        "left_because": batch.reason,
        **_served(model),
    }
    if batch.length is not None:
        found["length_bucket"] = batch.length
    return found


def _served(model: ServedModel) -> Explanation:
    return {
        "backend": model.provider,
        "artifact": model.artifact.file.path,
        "precision": model.candidate.precision,
        "version": model.version,
    }


def server_timing(explanation: Explanation) -> str:
    """The header's value."""
    stages = {"queue": "queue_ms", "pad": "pad_ms", "compute": "compute_ms"}
    return ", ".join(f"{stage};dur={explanation[key]}" for stage, key in stages.items())
