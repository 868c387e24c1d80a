"""The data-centre TensorRT without NVIDIA's libraries: its real bindings, over empty ones, have every name and argument
that our code uses. So the path that only runs on a GPU cannot rot unseen.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDING, RUNNING = ROOT / "export/to_tensorrt.py", ROOT / "runtime/tensorrt_session.py"
# Variables in our code, and the class of TensorRT whose objects they hold.
OBJECTS = {
    (BUILDING, "builder"): "Builder",
    (BUILDING, "config"): "IBuilderConfig",
    (BUILDING, "parser"): "OnnxParser",
    (BUILDING, "profile"): "IOptimizationProfile",
    (BUILDING, "cache"): "ITimingCache",
    (BUILDING, "error"): "ParserError",
    (RUNNING, "runtime"): "Runtime",
    (RUNNING, "engine"): "ICudaEngine",
    (RUNNING, "context"): "IExecutionContext",
}
RTX_ONLY = {
    "num_compute_capabilities",
    "set_compute_capability",
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
}
EMPTY = {
    "libnvinfer.so.11": [
        "createInferBuilder_INTERNAL",
        "createInferRuntime_INTERNAL",
        "createInferRefitter_INTERNAL",
        "getPluginRegistry",
        "getBuilderPluginRegistry",
    ],
    "libnvinfer_plugin.so.11": ["initLibNvInferPlugins"],
    "libnvonnxparser.so.11": [
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ],
}
DESCRIBE = """
import json, sys
import tensorrt_bindings as trt
def documented(owner):
    return {name: getattr(owner, name).__doc__ or "" for name in dir(owner)}
classes = {name: documented(getattr(trt, name)) for name in json.load(sys.stdin) if hasattr(trt, name)}
print(json.dumps({"": {name: "" for name in dir(trt)}, **classes}))
"""


@dataclass(frozen=True)
class Use:
    """A name that our code takes from an object of TensorRT; with how many arguments, where it is called."""

    name: str
    positional: int = 0
    keywords: tuple[str, ...] = ()
    called: bool = False


def uses(path: Path, variable: str) -> set[Use]:
    """Every `variable.name` and `variable.name(…)` in a source file."""
    tree = ast.parse(path.read_text())
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (variable, f"self._{variable}"):
            call = calls.get(id(node))
            keywords = tuple(keyword.arg or "" for keyword in call.keywords) if call else ()
            found.add(Use(node.attr, len(call.args) if call else 0, keywords, call is not None))
    return {use for use in found if use.name not in RTX_ONLY}


def takes(documentation: str, use: Use) -> bool:
    """Whether one of the signatures in pybind's docstring takes these arguments."""
    for signature in re.findall(rf"{use.name}\((.*?)\) ->", documentation):
        parts = [part.strip() for part in re.split(r",\s*(?![^\[\(]*[\]\)])", signature) if part.strip()]
        names = [part.split(":")[0].strip() for part in parts if not part.startswith("self")]
        required = [part.split(":")[0].strip() for part in parts if "=" not in part and not part.startswith("self")]
        given = names[: use.positional]
        if len(given) == use.positional and set(use.keywords) <= set(names) and set(required) <= {*given, *use.keywords}:
            return True
    return False


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    """Names and docstrings of every class we use, read in a process of its own: {"": names, class: {name: docstring}}."""
    spec = importlib.util.find_spec("tensorrt_bindings")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    if compiler is None:
        pytest.skip("no C compiler")
    root = tmp_path_factory.mktemp("bindings")
    package = shutil.copytree(spec.submodule_search_locations[0], root / "tensorrt_bindings")
    for library, functions in EMPTY.items():
        source = root / "empty.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", package / library, source]
        subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE],
        input=json.dumps(sorted(set(OBJECTS.values()))),
        env={"PYTHONPATH": str(root), "LD_LIBRARY_PATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_name_of_the_module_is_there(bindings):
    used = set().union(*(uses(path, "trt") for path in (BUILDING, RUNNING, ROOT / "runtime/tensorrt_flavour.py")))
    names = {use.name for use in used}
    assert {"Builder", "OnnxParser", "Runtime", "TensorIOMode"} <= names
    assert sorted(names - set(bindings[""])) == []


@pytest.mark.parametrize(("path", "variable"), OBJECTS, ids=OBJECTS.values())
def test_every_call_names_a_method_that_takes_its_arguments(path, variable, bindings):
    found = uses(path, variable)
    assert found, f"nothing is done with {variable!r} in {path.name}: has it been renamed?"
    documented = bindings[OBJECTS[path, variable]]
    assert sorted(use.name for use in found if use.name not in documented) == []
    wrong = [use for use in found if use.called and not takes(documented[use.name], use)]
    assert wrong == []


def test_a_call_with_another_argument_would_be_found():
    documentation = "set_shape(self: X, input: str, min: Dims, opt: Dims = None) -> None"
    assert takes(documentation, Use("set_shape", 2, called=True))
    assert takes(documentation, Use("set_shape", 1, ("min",), called=True))
    assert not takes(documentation, Use("set_shape", 1, called=True))
    assert not takes(documentation, Use("set_shape", 4, called=True))
    assert not takes(documentation, Use("set_shape", 2, ("maximum",), called=True))
