"""Sends every model a golden row and compares the answer: what `helm test` runs. `predict.py URL`; needs nothing but Python.

The rows are the examples of the server's own OpenAPI document: held-out inputs with PyTorch's answers. The variable KEY may have an
API key, CERTIFICATE a folder with this client's tls.crt and tls.key, and SSL_CERT_FILE who signed the server's certificate.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.request
from typing import Any

# The document has four digits of each number; an 8-bit model may be further away.
TOLERANCE = 0.05


def main(url: str) -> int:
    """0 where every model answers as the document says; 1, with both answers, where one does not."""
    failed = tested = 0
    for path, operations in ask(f"{url}/openapi.json")["paths"].items():
        if not path.startswith("/v2/models/") or not path.endswith("/infer") or "{" in path:
            continue
        call = operations["post"]
        request = call["requestBody"]["content"]["application/json"]["schema"].get("example")
        if request is None:
            print(f"{path}: passed over, every golden row lacks a value, which JSON cannot say")
            continue
        tested += 1
        expected = values(call["responses"]["200"]["content"]["application/json"]["schema"]["example"])
        found = values(ask(url + path, request))
        right = expected.keys() == found.keys() and all(near(expected[name], found[name]) for name in expected)
        failed += not right
        print(f"{path}: {'the golden answer' if right else f'{found}, not {expected}'}")
    if not tested:
        print(f"{url}/openapi.json describes no model that could be asked", file=sys.stderr)
    return 1 if failed or not tested else 0


def ask(url: str, body: Any = None) -> Any:
    """The JSON answer to a GET, or to a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    shown = {"Authorization": f"Bearer {os.environ['KEY'].strip()}"} if "KEY" in os.environ else {}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **shown})
    trust = ssl.create_default_context()
    if folder := os.environ.get("CERTIFICATE"):
        trust.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
    with urllib.request.urlopen(request, timeout=60, context=trust) as answer:
        return json.load(answer)


def values(answer: dict[str, Any]) -> dict[str, list[float]]:
    """The outputs by name."""
    return {output["name"]: output["data"] for output in answer["outputs"]}


def near(expected: list[float], found: list[float]) -> bool:
    """Whether all elements are within the tolerance, absolute plus relative to the largest."""
    limit = TOLERANCE * (1 + max(map(abs, expected), default=0))
    return len(expected) == len(found) and all(abs(one - other) <= limit for one, other in zip(expected, found, strict=True))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except OSError as error:  # no connection, or an answer that is not 200
        sys.exit(f"{sys.argv[1]}: {error}")
