"""Which tests run which lines of the package: recorded once by tracing, for the lane of `tests/mutants.py`.

What is recorded are lines inside functions. Lines that run in the processes that a test starts are the test's, too,
and so are those of the fixtures and cached helpers that it uses, no matter which test they ran for.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGE = "hf_clipalign"
_LOG = "MUTANT_LINES"
# of the code of a function, not of a module or class
_IN_FUNCTION = 0x1
Line = tuple[str, int]


class Trace:
    """The lines that run; each new one is written to `log` at once, for a process that may be killed."""

    def __init__(self, tree: Path, log: Path | None = None):
        self.tree, self.lines = f"{tree}{os.sep}", set[Line]()
        self.output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if log else -1
        self._local: dict[str, Callable[..., Any] | None] = {}

    def start(self) -> None:
        threading.settrace(self)
        sys.settrace(self)

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        code: CodeType = frame.f_code
        if not code.co_flags & _IN_FUNCTION:
            return None
        try:
            return self._local[code.co_filename]
        except KeyError:
            return self._local.setdefault(code.co_filename, self._tracer_of(code.co_filename))

    def _tracer_of(self, name: str) -> Callable[..., Any] | None:
        if not name.startswith(f"{self.tree}{PACKAGE}"):
            return None
        file = name.removeprefix(self.tree)

        def local(frame: FrameType, event: str, argument: object) -> Any:
            if event == "line" and (line := (file, frame.f_lineno)) not in self.lines:
                self.lines.add(line)
                if self.output >= 0:
                    os.write(self.output, f"{file}\t{frame.f_lineno}\n".encode())
            return local

        return local


def trace_if_asked() -> None:
    """For `sitecustomize` of the processes that tests start."""
    if log := os.environ.get(_LOG):
        Trace(Path(__file__).resolve().parents[1], Path(log)).start()


@dataclass
class Bag:
    """The lines and the CPU seconds of one test, fixture or cached call."""

    lines: set[Line] = field(default_factory=set)
    seconds: float = 0.0

    def add(self, other: Bag) -> None:
        self.lines |= other.lines
        self.seconds += other.seconds


class Recorder:
    """A plugin of pytest that gives every test its lines."""

    def __init__(self, tree: Path, log: Path, known: dict[str, Any]):
        self.tree, self.log, self.trace = tree, log, Trace(tree)
        self.known, self.tests, self._texts = known, dict[str, dict[str, Any]](), dict[str, str]()
        self._open, self._of_fixture, self._failed = Bag(), {}, set[str]()
        log.touch()
        os.environ[_LOG] = str(log)
        os.register_at_fork(after_in_child=self._in_child)
        self._cache, functools.cache = functools.cache, self._remembering

    def _in_child(self) -> None:
        self.trace.lines.clear()
        self.trace.output = os.open(self.log, os.O_WRONLY | os.O_APPEND)

    @contextmanager
    def _bag(self) -> Iterator[Bag]:
        around, bag, start = self._open, Bag(), sum(os.times()[:4])
        around.lines |= self.trace.lines
        self.trace.lines.clear()
        self._open = bag
        try:
            yield bag
        finally:
            bag.lines |= self.trace.lines
            bag.seconds += sum(os.times()[:4]) - start
            self.trace.lines.clear()
            around.lines |= bag.lines
            self._open = around

    def _remembering(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`functools.cache` whose lines belong to everyone who gets the result."""
        cached, bags = self._cache(function), dict[Any, Bag]()
        if not function.__code__.co_filename.startswith(str(self.tree)):
            return cached

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            key = functools._make_key(args, kwargs, False)
            if key in bags:
                self._open.add(bags[key])
                return cached(*args, **kwargs)
            with self._bag() as bag:
                result = cached(*args, **kwargs)
            bags[key] = bag
            return result

        called.cache_clear, called.cache_info = cached.cache_clear, cached.cache_info
        return called

    def _hooks(self) -> Any:
        import pytest

        recorder = self

        class Hooks:
            @pytest.hookimpl(trylast=True)
            def pytest_collection_modifyitems(self, items: list[Any]) -> None:
                items[:] = [item for item in items if not recorder._is_known(item)]

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_protocol(self, item: Any) -> Any:
                with recorder._bag() as bag:
                    recorder.trace.start()
                    result = yield
                recorder._finish(item, bag)
                return result

            @pytest.hookimpl(wrapper=True)
            def pytest_fixture_setup(self, fixturedef: Any) -> Any:
                with recorder._bag() as bag:
                    result = yield
                if fixturedef.scope != "function":
                    recorder._of_fixture[fixturedef] = bag
                return result

            def pytest_runtest_logreport(self, report: Any) -> None:
                if report.failed or report.skipped:
                    recorder._failed.add(report.nodeid)

        return Hooks()

    def _is_known(self, item: Any) -> bool:
        """Whether the test has a record, and the same text as then."""
        text = self._texts[item.nodeid] = _sha(inspect.getsource(item.function).encode())
        known = self.known.get(item.nodeid, {"text": None})
        if is_known := known.get("text", text) == text:
            self.tests[item.nodeid] = {**known, "text": text}
        return is_known

    def _finish(self, item: Any, bag: Bag) -> None:
        for definitions in item._fixtureinfo.name2fixturedefs.values():
            for definition in definitions:
                if (shared := self._of_fixture.get(definition)) and not shared.lines <= bag.lines:
                    bag.add(shared)
        text = self.log.read_text()
        os.truncate(self.log, 0)
        for entry in filter(None, text.split("\n")):
            name, _, number = entry.partition("\t")
            bag.lines.add((name, int(number)))
        by_file = defaultdict[str, list[int]](list)
        for name, number in sorted(bag.lines):
            by_file[name].append(number)
        facts = {"text": self._texts[item.nodeid], "seconds": round(bag.seconds, 3)}
        self.tests[item.nodeid] = {**facts, "lines": by_file}

    def record(self, test_file: str) -> dict[str, Any]:
        """Runs the tests of a file that are not known; those that fail or are skipped are left out."""
        import pytest

        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={self.tree}"]
        pytest.main([*options, test_file], plugins=[self._hooks()])
        sys.settrace(None)
        failed = sorted(self._failed)
        return {
            "tests": {name: test for name, test in self.tests.items() if name not in self._failed},
            "failed": failed,
        }


class Lines:
    """The record of all files of tests, in a folder with one JSON file for each."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        sources = sorted((root / PACKAGE).rglob("*.py"))
        self.shas = {file.relative_to(root).as_posix(): _sha(file.read_bytes()) for file in sources}
        self.seconds: dict[str, float] = {}
        self._tests_of: dict[Line, list[str]] = defaultdict(list)
        self._tests_of_file: dict[str, list[str]] = defaultdict(list)

    def _entry(self, test_file: str) -> Path:
        return self.folder / f"{test_file.removesuffix('.py').replace('/', '.')}.json"

    def missing(self, test_files: Iterable[str]) -> list[str]:
        """The files whose tests have no record, or have changed since."""
        return [file for file in test_files if self._read(file).get("sha") != _sha((self.root / file).read_bytes())]

    def _read(self, test_file: str) -> dict[str, Any]:
        entry = self._entry(test_file)
        return json.loads(entry.read_text()) if entry.exists() else {}

    def write(self, test_file: str, record: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {"sha": _sha((self.root / test_file).read_bytes()), "sources": self.shas, **record}
        self._entry(test_file).write_text(json.dumps(whole))

    def known(self, test_file: str) -> dict[str, Any]:
        """The recorded tests. Lines of a module that has changed since are 0: they would be of something else."""
        record = self._read(test_file)
        changed = {name for name, sha in record.get("sources", {}).items() if self.shas.get(name) != sha}
        return {
            name: test | {"lines": {file: [0] if file in changed else rows for file, rows in test["lines"].items()}}
            for name, test in record.get("tests", {}).items()
        }

    def load(self, test_files: Iterable[str]) -> None:
        for name, test in (pair for file in test_files for pair in self.known(file).items()):
            self.seconds[name] = test["seconds"]
            for source, numbers in test["lines"].items():
                self._tests_of_file[source].append(name)
                for number in numbers:
                    self._tests_of[source, number].append(name)

    def tests(self, file: str, span: tuple[int, int] | None, budget: float) -> list[str]:
        """The tests that run one of the lines, the module's own and the quickest first, up to `budget` seconds.

        Code that runs when the module is imported has no lines here: then those that run any of its functions. A line
        that no test runs may be in a function that is called at import: then the room's quickest tests.
        """
        if span is None:
            found = set(self._tests_of_file[file])
        else:
            found = {
                name for line in (0, *range(span[0], span[1] + 1)) for name in self._tests_of.get((file, line), [])
            }
        room = f"tests/{Path(file).relative_to(PACKAGE).parts[0]}"
        if not found:
            found = {name for name in self.seconds if name.startswith(room)}
            budget /= 10
        chosen, spent = list[str](), 0.0
        for name in sorted(found, key=lambda name: (not name.startswith(room), self.seconds[name], name)):
            spent += self.seconds[name]
            if spent > budget and chosen:
                break
            chosen.append(name)
        return chosen


def spans(tree: ast.AST) -> dict[int, tuple[int, int] | None]:
    """The lines that run with each node, by `id`: its statement's; for defaults, the function's body; else None."""
    found: dict[int, tuple[int, int] | None] = {}

    def visit(node: ast.AST, inside: bool, span: tuple[int, int] | None) -> None:
        if isinstance(node, ast.Lambda) and span is None:
            span = node.lineno, node.end_lineno or node.lineno
        if inside and isinstance(node, (ast.stmt, ast.ExceptHandler)):
            first_inside = min((child.lineno for child in getattr(node, "body", [])), default=None)
            last = max(node.lineno, first_inside - 1) if first_inside else node.end_lineno or node.lineno
            span = node.lineno, last
        found[id(node)] = span
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for name, value in ast.iter_fields(node):
            of_body = is_function and name == "body"
            around = (node.body[0].lineno, node.end_lineno) if is_function and not of_body else span
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, inside or of_body, around)

    visit(tree, False, None)
    return found


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
