"""Which module of the package imports which, read from the source: also inside functions, under TYPE_CHECKING, in the
stubs of lazily loaded names, and as strings given to `importlib`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "hf_clipalign"
_MODULE_NAME = re.compile(rf"{PACKAGE}(\.[A-Za-z_]\w*)+\.?")


class Arrow(NamedTuple):
    """One import: from the module `importer`, of the module `target`, and of `name` in it, if anything is named.

    `written` is the module that the import names: another one where the name is loaded lazily from `target`.
    """

    importer: str
    target: str
    name: str | None
    written: str


class ImportGraph:
    """The imports of every module below `root/hf_clipalign` and of the scripts in `root/examples`.

    Args:
        root (`Path`): the folder that holds the package.
    """

    def __init__(self, root: Path):
        self.files = {module_name(file, root): file for file in sorted((root / PACKAGE).rglob("*.py"))}
        scripts = {f"examples.{file.stem}": file for file in sorted((root / "examples").glob("*.py"))}
        self._stubs = {
            module_name(stub.with_suffix(".py"), root): stub for stub in sorted((root / PACKAGE).rglob("*.pyi"))
        }
        self._public = {module: dict(self._exports(module)) for module in self._stubs}
        self.arrows = [
            arrow for module, file in (self.files | scripts).items() for arrow in self._imports(module, file)
        ]
        self.stub_arrows = [
            Arrow(module, target, name, target)
            for module, names in self._public.items()
            for name, target in names.items()
        ]

    def _exports(self, module: str) -> Iterator[tuple[str, str]]:
        for node in ast.walk(ast.parse(self._stubs[module].read_text())):
            if isinstance(node, ast.ImportFrom):
                base = module if node.level else ""
                target = ".".join(filter(None, [base, node.module]))
                yield from ((alias.asname or alias.name, target) for alias in node.names)

    def _imports(self, module: str, file: Path) -> Iterator[Arrow]:
        tree = ast.parse(file.read_text())
        texts = set(map(id, docstrings(tree)))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                source = self._absolute(node, module, file)
                if source.split(".")[0] == PACKAGE:
                    yield from (self.resolve(module, source, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == PACKAGE:
                        yield Arrow(module, alias.name, None, alias.name)
            elif isinstance(node, ast.Constant) and id(node) not in texts and _MODULE_NAME.fullmatch(str(node.value)):
                target = self._nearest(str(node.value).rstrip("."))
                yield Arrow(module, target, None, target)

    def resolve(self, importer: str, source: str, name: str) -> Arrow:
        """The arrow of `from source import name`, with submodules and lazily loaded names followed to their file."""
        if f"{source}.{name}" in self.files:
            return Arrow(importer, f"{source}.{name}", None, f"{source}.{name}")
        seen, written = set(), source
        while name in self._public.get(source, {}) and source not in seen:
            seen.add(source)
            source = self._public[source][name]
        return Arrow(importer, source, name, written)

    def _nearest(self, dotted: str) -> str:
        while dotted not in self.files and "." in dotted:
            dotted = dotted.rpartition(".")[0]
        return dotted

    @staticmethod
    def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        if file.name == "__init__.py":
            parts.append("")
        return ".".join([*parts[: len(parts) - node.level], *filter(None, [node.module])])

    def circles(self) -> list[list[str]]:
        """Groups of modules that import one another, each sorted; the package's own `__init__` is left out."""
        edges: dict[str, set[str]] = {module: set() for module in self.files if module != PACKAGE}
        for arrow in self.arrows:
            if arrow.importer in edges and arrow.target in edges and arrow.target != arrow.importer:
                edges[arrow.importer].add(arrow.target)
        return sorted(sorted(group) for group in strongly_connected(edges) if len(group) > 1)


def module_name(file: Path, root: Path) -> str:
    """`hf_clipalign.data.mini` of `hf_clipalign/data/mini.py`; a package's `__init__.py` has the package's name."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """The string statements of a module: docstrings, and those below a constant or a field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def strongly_connected(edges: dict[str, set[str]]) -> list[set[str]]:
    """Kosaraju's algorithm: the groups of nodes that reach one another."""
    order: list[str] = []
    seen: set[str] = set()
    for start in edges:
        stack = [(start, iter(sorted(edges[start])))] if start not in seen else []
        seen.add(start)
        while stack:
            node, following = stack[-1]
            child = next((child for child in following if child not in seen), None)
            if child is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(child)
                stack.append((child, iter(sorted(edges[child]))))
    backwards: dict[str, set[str]] = {node: set() for node in edges}
    for node, targets in edges.items():
        for target in targets:
            backwards[target].add(node)
    groups, left = [], set(edges)
    for start in reversed(order):
        group, waiting = set(), [start]
        while waiting:
            node = waiting.pop()
            if node in left:
                left.discard(node)
                group.add(node)
                waiting.extend(backwards[node])
        if group:
            groups.append(group)
    return groups
