"""The package as a whole: what an import costs, what is public, and which room may import which."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_clipalign

PACKAGE = Path(hf_clipalign.__file__).parent
# a room may import the rooms after it
FLOOR_PLAN = [
    {"cli", "app"},
    {"trainers"},
    {"hub"},
    {"evaluation"},
    {"isoclip", "inversion", "gcd", "tuners"},
    {"losses", "metrics"},
    {"data"},
    {"backbones"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOOR_PLAN) for room in rooms}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_nothing_heavy():
    code = "import sys, json, hf_clipalign; print(json.dumps([name for name in sys.modules]))"
    loaded = set(json.loads(run(code)))
    assert not loaded & {"torch", "transformers", "numpy", "datasets", "peft", "evaluate", "matplotlib"}


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("__init__.pyi")), ids=lambda path: path.parent.name)
def test_every_public_name_can_be_imported(stub):
    module = importlib.import_module(".".join(stub.parent.relative_to(PACKAGE.parent).parts))
    names = re.findall(r"^from \S+ import \S+ as (\S+)$", stub.read_text(), flags=re.MULTILINE)
    assert names
    assert set(names) <= set(dir(module))
    for name in names:
        assert getattr(module, name) is not None


def absolute_module(node, file):
    if node.level == 0:
        return node.module
    package = file.relative_to(PACKAGE.parent).parts[: -node.level]
    return ".".join([*package, *filter(None, [node.module])])


def imported_rooms(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules = [absolute_module(node, file)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "hf_clipalign" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_imports_go_down_the_floor_plan(room):
    for file in (PACKAGE / room).rglob("*.py"):
        for other in set(imported_rooms(file)) & set(LEVEL):
            assert other == room or LEVEL[other] > LEVEL[room], f"{file} imports {other}"


def test_no_backbone_is_asked_for_by_name_outside_its_room():
    pattern = re.compile(r"model_type\s*==|if .*[\"'](clip|siglip)\w*[\"'] in |isinstance\([^)]*(CLIP|Siglip)Model")
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name != "backbones":
            assert not pattern.search(file.read_text()), file


def test_nothing_is_pickled_and_no_remote_code_is_trusted():
    for file in PACKAGE.rglob("*.py"):
        assert not re.search(r"\bpickle\b|torch\.save|torch\.load\(|trust_remote_code=True", file.read_text()), file


def test_the_version_is_the_one_of_the_project_file():
    project = (PACKAGE.parent / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"', project, flags=re.MULTILINE)[1] == hf_clipalign.__version__
