"""The package as a whole: what an import costs, what is public, which room may import which, and how big it may grow.

The floor plan counts every arrow: imports inside functions, for types only, and by a string, like those at the top.
"""

import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import hf_clipalign
from tests.import_graph import ImportGraph

PACKAGE = Path(hf_clipalign.__file__).parent
ROOT = PACKAGE.parent
# a room may import the rooms of the lines after it; those of one line do not import each other
FLOOR_PLAN = [
    {"cli"},
    {"app"},
    {"trainers"},
    {"benchmarks"},
    {"hub"},
    {"search"},
    {"evaluation"},
    {"isoclip", "inversion", "gcd", "tuners"},
    {"features"},
    {"losses", "metrics"},
    {"data"},
    {"backbones"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOOR_PLAN) for room in rooms}
ROOMS_TO_COME: set[str] = set()
EXAMPLES, FRONT_DOOR, FOUNDATION = -1, -2, len(FLOOR_PLAN)
MOST_LINES, MOST_MODULES = 400, 14
GRAPH = ImportGraph(ROOT)


def room_of(module):
    """The folder below the package; "" for the package itself, the module's own name for one beside the rooms."""
    return [*module.split("."), ""][1] if module.startswith("hf_clipalign") else "examples"


def level_of(module):
    room = room_of(module)
    if room == "examples":
        return EXAMPLES
    return FRONT_DOOR if room == "" else LEVEL.get(room, FOUNDATION)


def is_private(name):
    return name is not None and name.startswith("_") and not name.endswith("__")


def upward_arrows():
    for arrow in GRAPH.arrows + GRAPH.stub_arrows:
        if level_of(arrow.importer) == FRONT_DOOR or arrow.target == "hf_clipalign":
            continue
        same_room = room_of(arrow.importer) == room_of(arrow.target)
        beside = level_of(arrow.importer) == level_of(arrow.target) == FOUNDATION
        if not same_room and not beside and level_of(arrow.target) <= level_of(arrow.importer):
            yield f"{arrow.importer} -> {room_of(arrow.target)}"


def private_imports():
    for arrow in GRAPH.arrows + GRAPH.stub_arrows:
        if room_of(arrow.importer) == room_of(arrow.target):
            continue
        inside_the_package = arrow.importer.startswith("hf_clipalign")
        hidden = [part for part in arrow.written.split(".")[1:] if is_private(part)]
        if inside_the_package and level_of(arrow.target) == FOUNDATION:
            hidden = []
        if hidden or is_private(arrow.name):
            yield f"{arrow.importer} -> {arrow.written}" + (f".{arrow.name}" if is_private(arrow.name) else "")


def modules_by_folder():
    return Counter(
        file.parent.relative_to(ROOT).as_posix() for file in PACKAGE.rglob("*.py") if not file.stem.startswith("__")
    )


FOUND = {
    "upwards": upward_arrows,
    "private": private_imports,
    "circle": lambda: (" <-> ".join(circle) for circle in GRAPH.circles()),
    "long": lambda: (
        module for module, file in GRAPH.files.items() if len(file.read_text().splitlines()) > MOST_LINES
    ),
    "missing": lambda: (
        f"{arrow.importer} -> {arrow.target}"
        for arrow in GRAPH.arrows + GRAPH.stub_arrows
        if arrow.target not in GRAPH.files
    ),
    "crowded": lambda: (folder for folder, modules in modules_by_folder().items() if modules > MOST_MODULES),
    "name": lambda: (module for module in GRAPH.files if "_and_" in module),
    "relative": lambda: (
        module for module, file in GRAPH.files.items() if re.search(r"^\s*from \.", file.read_text(), re.MULTILINE)
    ),
}


@pytest.mark.parametrize("rule", FOUND)
def test_the_floor_plan(rule):
    found = set(FOUND[rule]())
    assert found == set(), f"against the rule {rule!r}"


def test_every_room_is_in_the_floor_plan():
    rooms = {folder.name for folder in PACKAGE.iterdir() if any(folder.rglob("*.py")) and folder.name[0] != "_"}
    assert rooms | ROOMS_TO_COME == set(LEVEL)
    assert not rooms & ROOMS_TO_COME, "a room that exists is not to come"


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
