"""The default values that docstrings state are those of the signatures and fields, read from the source."""

import ast
import operator
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "hf_clipalign").rglob("*.py"))
STATED = re.compile(
    r"^ *\*{0,2}(\w+) \([^\n]*?(?:\n[^\n]*?){0,2}?defaults\s+to\s+(`+[^`]+`+|\d+ MiB|\d(?:[\w.,-]*\d)?|True|False)",
    re.MULTILINE,
)


SIZES = re.compile(r"^(\w+) \(`int`[^\n]*\. Default (\d+) MiB\.")


def stated_defaults(docstring):
    """`name (..., defaults to X): ...` by name; X may stand in the next line, thousands may have commas.

    Sizes may be `name (`int`): ... Default 8 MiB.`
    """
    entries = re.split(r"\n(?= {0,8}\*{0,2}\w+ \()", docstring)
    sizes = (SIZES.search(entry.strip()) for entry in entries)
    heads = (entry[: re.search(r"\):|\)$|\Z", entry).end()] for entry in entries)
    found = (STATED.search(head.strip()) for head in heads)
    stated = {match[1]: re.sub(r"(?<=\d),(?=\d{3})", "", match[2].strip("`")) for match in found if match}
    stated = {name: value.replace(" MiB", " * 2**20") for name, value in stated.items()}
    return stated | {match[1]: f"{match[2]} * 2**20" for match in sizes if match}


def actual_defaults(node):
    """The nodes of the default values, by parameter or field."""
    if isinstance(node, ast.ClassDef):
        fields = {part.target.id: part.value for part in node.body if isinstance(part, ast.AnnAssign) and part.value}
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        return fields | {name: value for part in made for name, value in actual_defaults(part).items()}
    named, only = node.args.posonlyargs + node.args.args, node.args.kwonlyargs
    pairs = [*zip(named[::-1], node.args.defaults[::-1], strict=False), *zip(only, node.args.kw_defaults, strict=True)]
    return {argument.arg: value for argument, value in pairs if value is not None}


def value_of(node, constants):
    """A literal, a constant of the module, or the `default` of a field; the source where it is neither."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "field":
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        return value_of(given.get("default", ast.Name("no default")), constants)
    if isinstance(node, ast.Name) and node.id in constants:
        return value_of(constants[node.id], constants)
    if isinstance(node, ast.BinOp):
        sides = [value_of(side, constants) for side in (node.left, node.right)]
        return {ast.Mult: operator.mul, ast.Pow: operator.pow}[type(node.op)](*sides)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def differences(tree):
    """`(name, parameter, stated, actual)` of every default that is stated as something else."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    constants = {node.targets[0].id: node.value for node in assigned}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    elsewhere = {alias.asname or alias.name for node in imports for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (docstring := ast.get_docstring(node)):
            actual = actual_defaults(node)
            for name, stated in stated_defaults(docstring).items():
                wanted = value_of(ast.parse(stated, mode="eval").body, constants)
                if name not in actual or ast.unparse(actual[name]) in elsewhere:
                    continue
                if value_of(actual[name], constants) != wanted:
                    yield node.name, name, stated, ast.unparse(actual[name])


@pytest.mark.parametrize("file", FILES)
def test_stated_defaults_are_the_actual_ones(file):
    assert not list(differences(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    ("entry", "default", "same"),
    [
        ("a (`int`, *optional*, defaults to `4`): what.", "4", True),
        ("a (`int`, *optional*, defaults to `4`): what.", "5", False),
        ("a (`int`, *optional*, defaults to 2,000): what.", "2000", True),
        ("a (`int`, *optional*,\n        defaults to `True`): what.", "False", False),
        ("a (`float`, *optional*, defaults to `1e-3`): what.", "0.001", True),
        ("a (`str`, *optional*, defaults to `'x'`): what.", "'y'", False),
        ("a (`float`, *optional*, defaults to `1e-3`): what.", "field(default=0.002, metadata={})", False),
        ("a (`bool`, *optional*, defaults to `False`): what.", "field(metadata={})", False),
        ("a (`bool`, *optional*, defaults to `False`): what.", "False == True", False),
        ("a (`int`, *optional*): what. b defaults to `4`.", "5", True),
        ("a (`int`): most bytes. Default 8 MiB.", "8 * 2**20", True),
        ("a (`int`): most bytes. Default 8 MiB.", "2**24", False),
        ("a (`int`, *optional*, defaults to 256 MiB): what.", "2**28", True),
        ("a (`int`, *optional*, defaults to 256 MiB): what.", "2**29", False),
    ],
)
def test_the_comparison_itself(entry, default, same):
    source = f'def f(a={default}):\n    """Does it.\n\n    Args:\n        {entry}\n    """\n'
    assert (not list(differences(ast.parse(source)))) == same


def test_most_defaults_are_found():
    trees = [ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in FILES]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    found = [set(stated_defaults(ast.get_docstring(node) or "")) & set(actual_defaults(node)) for node in nodes]
    assert sum(map(len, found)) > 200
