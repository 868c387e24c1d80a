"""The chart, rendered by Helm's own SDK: no cluster, no helm binary."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "quartet"
FEATURES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())

Document = dict[str, Any]


def values(feature: str) -> Document:
    return yaml.safe_load((CHART / "ci" / f"{feature}-values.yaml").read_text())


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(overrides: Document, **options: Any) -> list[Document]:
    """Every document, as release `quartet` in the namespace `models`. Raises HelmError."""
    manifests = chart().render(overrides, **{"name": "quartet", "namespace": "models", **options})
    texts = [text for path, text in manifests.items() if not path.endswith("NOTES.txt")]
    return [document for text in texts for document in yaml.load_all(text, yaml.CSafeLoader) if document]


@cache
def _feature(name: str) -> str:
    return json.dumps(render(values(name)))


def feature(name: str) -> list[Document]:
    """What ci/NAME-values.yaml makes."""
    return json.loads(_feature(name))


def one(documents: list[Document], kind: str, name: str = "quartet") -> Document:
    (found,) = [document for document in documents if document["kind"] == kind and document["metadata"]["name"] == name]
    return found


def kinds(documents: list[Document]) -> set[str]:
    return {document["kind"] for document in documents}


def pod(documents: list[Document], name: str = "quartet") -> Document:
    """The spec of a Deployment's pods."""
    return one(documents, "Deployment", name)["spec"]["template"]["spec"]


def container(documents: list[Document], name: str = "quartet") -> Document:
    """The service's container."""
    (found,) = pod(documents, name)["containers"]
    return found


def settings(documents: list[Document], name: str = "quartet") -> dict[str, str]:
    """The environment that the ConfigMap gives."""
    return one(documents, "ConfigMap", name)["data"]
