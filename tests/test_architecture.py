"""The rules of the house, as tests: who may import whom, and what serving must never drag in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "modelrepo": set(),
    "runtime": {"modelrepo"},
    "training": {"modelrepo"},
    "export": {"training", "runtime", "modelrepo"},
    "service": {"runtime", "modelrepo"},
    "quartet_client": set(),
}
THIRD_PARTY = {
    "quartet_client": {"numpy", "httpx2"},
    "modelrepo": {"numpy", "pydantic"},
    "runtime": {"numpy", "onnxruntime", "openvino", "cuda"},
    "service": {
        "numpy",
        "pydantic",
        "pydantic_settings",
        "fastapi",
        "fastapi_offline",
        "httptools",
        "starlette",
        "uvicorn",
        "msgspec",
        "orjson",
        "prometheus_client",
        "python_multipart",
        "PIL",
        "polars",
        "tokenizers",
        "opentelemetry",
        "pynvml",
        "grpc",
        "grpc_health",
        "grpc_reflection",
        "google",
    },
}
UNWANTED = {"torch", "onnx", "sklearn", "polars", "training", "export", "grpc", "fsspec", "s3fs", "cryptography"}

OPTIONAL = {"modelrepo/store.py": {"fsspec"}, "modelrepo/signatures.py": {"cryptography"}}
"""What one file may import, and only when it is used."""


def imports(package: str) -> Iterator[tuple[str, str]]:
    """(file, imported module) for every import statement of a package, those inside functions too."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield str(path.relative_to(ROOT)), alias.name
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} has a relative import"
                yield str(path.relative_to(ROOT)), node.module or ""


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_the_packages_it_may(package):
    wrong = [
        f"{file} imports {module}"
        for file, module in imports(package)
        if (top := module.split(".")[0]) in ALLOWED and top != package and top not in ALLOWED[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_a_serving_package_imports_only_the_libraries_it_declares(package):
    wrong = [
        f"{file} imports {module}"
        for file, module in imports(package)
        if module.split(".")[0] not in {*sys.stdlib_module_names, *ALLOWED, *THIRD_PARTY[package], *OPTIONAL.get(file, ())}
    ]
    assert wrong == []


def test_training_knows_what_a_manifest_is_made_of_but_not_how_versions_are_stored():
    known = {f"modelrepo.{part}" for part in ("tensors", "tasks", "preprocessing", "reference", "measures")}
    wrong = [
        f"{file} imports {module}" for file, module in imports("training") if module.startswith("modelrepo") and module not in known
    ]
    assert wrong == []


def test_nobody_but_the_server_imports_the_composition_root():
    importers = {file for package in ALLOWED for file, module in imports(package) if module == "service.app"}
    assert importers == {"service/server.py"}


def test_nobody_imports_the_load_tests():
    importers = {file for package in ALLOWED for file, module in imports(package) if module.split(".")[0] == "loadtests"}
    assert importers == set()


def test_the_batcher_knows_no_http_and_no_onnx():
    modules = {module.split(".")[0] for file, module in imports("service") if file == "service/batching.py"}
    assert not modules & {"fastapi", "starlette", "uvicorn", "onnxruntime", "runtime"}


@pytest.mark.parametrize("module", ["service.server", "runtime.open", "runtime.goldens", "modelrepo.__main__"])
def test_serving_never_loads_torch_nor_unasked_what_is_optional(module):
    code = f"import sys, {module}; sys.exit(', '.join({UNWANTED} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{module} loads {done.stderr}"
