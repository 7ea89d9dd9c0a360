"""One-line mistakes in the package that the tests should notice: `make mutants`, not part of `.ci/run`.

Each mutant is the package with one expression or statement changed. It is written to a copy of the tree that comes
first on the path of a child process, which is forked from a process that has torch and transformers imported, and runs
the tests that run the changed line, the quickest first, until one fails. Which tests these are is recorded before
(`mutant_lines.py`), in a folder beside the report; only files of tests that changed are recorded again, so delete it
after large changes of the package. The report is JSON, one entry a mutant; a run that is started again with the same
report leaves out what is in it, and with `--again` repeats the survivors.

python -m tests.mutants --count 400 --seed 0 --out mutants.json [--only hf_clipalign/losses] [--again]
"""

from __future__ import annotations

import argparse
import ast
import copy
import itertools
import json
import os
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutant_equivalents import EQUIVALENT
from tests.mutant_lane import Lane
from tests.mutant_lines import Lines, spans

ROOT = Path(__file__).parents[1]
ROOMS = [
    *("isoclip", "losses", "metrics", "gcd", "inversion", "tuners", "backbones/packing.py", "features", "evaluation"),
    *("trainers", "hub", "data", "_io", "_checks"),
]
# the tests that the lane runs, in the order in which they are recorded
_SINGLE = ("defaults", "calls", "files", "json", "locks", "masking", "tensors", "sequences", "quoting")
_TESTS = [
    *(f"test_{name}.py" for name in _SINGLE),
    *("losses", "metrics", "isoclip", "gcd", "inversion", "data", "tuners", "evaluation", "trainers", "features"),
    *("hub", "backbones", "search"),
]
# those that start processes or train for long are recorded last
_LONG = re.compile("process|life_cycle|kill|export|round_trip|study|extraction|store|reading|hub|trainer|parity")
# read the module, so that no line of it runs there
_OF_SOURCE = (
    "tests/test_defaults.py::test_stated_defaults_are_the_actual_ones[{}]",
    "tests/test_calls.py::test_calls_say_what_they_must[{}]",
)
_COMPARISONS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
_ARITHMETIC = {
    **{
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Div,
        ast.Div: ast.Mult,
        ast.FloorDiv: ast.Mult,
        ast.Mod: ast.Add,
    },
    **{ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
_TEXT = (ast.JoinedStr, ast.Raise, ast.Assert)


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes `start` to `end` of a file become `new`.

    `lines` are the first and last line that run with the change; None stands for code that runs at import.
    """

    file: str
    line: int
    column: int
    text: str
    change: str
    start: int
    end: int
    new: str
    lines: tuple[int, int] | None

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.change}"

    def applied(self, content: bytes) -> bytes:
        """The file's content with the change."""
        return content[: self.start] + self.new.encode() + content[self.end :]


def mutants_of(file: Path, root: Path = ROOT) -> list[Mutant]:
    """Every mutant of a module, in the order of the source. Messages, types and docstrings are left alone."""
    content = file.read_bytes()
    tree, found = ast.parse(content), []
    lines, texts = spans(tree), content.decode().splitlines()
    starts = [0, *itertools.accumulate(len(line) for line in content.splitlines(keepends=True))]
    for node, new in _changes(tree):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        old_text, new_text = ast.unparse(node), "pass" if new is None else ast.unparse(new)
        if old_text == new_text:
            continue
        # in brackets: the expression may have stood over several lines, or bind more tightly than its neighbours
        inside = f"({new_text})" if isinstance(node, ast.expr) else new_text
        change = f"{' '.join(old_text.split())[:70]} -> {' '.join(new_text.split())[:70]}"
        place = (file.relative_to(root).as_posix(), node.lineno, node.col_offset, texts[node.lineno - 1].strip())
        found.append(Mutant(*place, change, start, end, inside, lines[id(node)]))
    return found


def _compiles(mutant: Mutant) -> bool:
    try:
        compile(mutant.applied((ROOT / mutant.file).read_bytes()), mutant.file, "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Nodes with what takes their place; None removes a statement."""
    skipped = {id(child) for node in ast.walk(tree) if isinstance(node, _TEXT) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            annotations = [
                node.returns,
                *(argument.annotation for argument in ast.walk(node.args) if isinstance(argument, ast.arg)),
            ]
            skipped |= {id(child) for hint in filter(None, annotations) for child in ast.walk(hint)}
            skipped |= {id(child) for decorator in node.decorator_list for child in ast.walk(decorator)}
        elif isinstance(node, ast.AnnAssign):
            skipped |= {id(child) for child in ast.walk(node.annotation)}
    for node in ast.walk(tree):
        if id(node) not in skipped:
            yield from ((node, new) for new in _variants(node))


def _variants(node: ast.AST) -> Iterator[ast.AST | None]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        yield _with(node, ops=[_COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
        yield _with(node, op=_ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1 if isinstance(node.value, int) else node.value / 2)
    elif isinstance(node, (ast.If, ast.IfExp)):
        # the condition alone, so that one line changes
        return
    elif isinstance(node, ast.Call):
        if len(node.args) > 1 and not any(isinstance(argument, ast.Starred) for argument in node.args[:2]):
            yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                yield _with(node, keywords=[k for i, k in enumerate(node.keywords) if i != place])
    elif isinstance(node, (ast.AugAssign, ast.Continue, ast.Break)) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, (ast.Constant, ast.Yield, ast.YieldFrom, ast.Await))
    ):
        yield None


def _with(node: ast.AST, **changes: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in changes.items():
        setattr(new, name, value)
    return new


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in (node.left, node.right))


def modules(only: str | None = None) -> list[Path]:
    """The modules of the lane's rooms."""
    places = [ROOT / "hf_clipalign" / room for room in ROOMS]
    files = [file for place in places for file in ([place] if place.suffix else sorted(place.rglob("*.py")))]
    return [file for file in files if only is None or file.relative_to(ROOT).as_posix().startswith(only)]


def sample(count: int, seed: int, only: str | None = None) -> list[Mutant]:
    """Mutants drawn evenly over all lines of all rooms; the first n of a longer sample are those of a shorter one."""
    found = [mutant for file in modules(only) for mutant in mutants_of(file)]
    random.Random(seed).shuffle(found)
    return list(itertools.islice(filter(_compiles, found), count))


def files_of_tests() -> list[str]:
    """The files of tests that the lane runs."""
    places = [ROOT / "tests" / name for name in _TESTS]
    files = [file for place in places for file in ([place] if place.suffix else sorted(place.rglob("test_*.py")))]
    return [
        file.relative_to(ROOT).as_posix() for file in sorted(files, key=lambda file: bool(_LONG.search(file.name)))
    ]


def main() -> int:
    """Runs the sample; exit status 1 if less than 95 % of the mutants that are not equivalent are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    parser.add_argument("--only", help="beginning of the modules' paths, such as hf_clipalign/losses")
    parser.add_argument("--seconds", type=float, default=60, help="CPU time of the tests that one mutant may take")
    parser.add_argument("--again", action="store_true", help="try the survivors of the report again")
    parser.add_argument("--recorded", action="store_true", help="only with the tests whose lines are recorded so far")
    options = parser.parse_args()
    report = json.loads(options.out.read_text()) if options.out.exists() else []
    report = [entry for entry in report if not (options.again and entry["outcome"] == "survived")]
    done = {entry["name"] for entry in report}
    waiting = [mutant for mutant in sample(options.count, options.seed, options.only) if mutant.name not in done]
    lines = Lines(ROOT, options.out.with_suffix(".lines"))
    with Lane(ROOT) as lane:
        if not options.recorded:
            _record(lane, lines)
        lines.load(files_of_tests())
        _run(lane, lines, waiting, report, options)
    return _summary(report)


def _record(lane: Lane, lines: Lines) -> None:
    for file in lines.missing(files_of_tests()):
        start, record = time.monotonic(), lane.record(file, lines.known(file))
        lines.write(file, record)
        print(
            f"recorded {len(record['tests']):4} {time.monotonic() - start:6.1f} s  {file}  {record['failed'] or ''}",
            flush=True,
        )


def _run(lane: Lane, lines: Lines, waiting: list[Mutant], report: list[Any], options: argparse.Namespace) -> None:
    for mutant in waiting:
        start = time.monotonic()
        if (mutant.file, mutant.text, mutant.change) in EQUIVALENT:
            outcome, by = "equivalent", EQUIVALENT[mutant.file, mutant.text, mutant.change]
        elif tests := lines.tests(mutant.file, mutant.lines, options.seconds):
            tests = [*(test for one in _OF_SOURCE if (test := one.format(mutant.file)) in lines.seconds), *tests]
            content = mutant.applied((ROOT / mutant.file).read_bytes())
            outcome, by = lane.run(mutant.file, content, tests, sum(lines.seconds.get(test, 1) for test in tests))
            by = by or f"{len(tests)} tests"
        else:
            outcome, by = "survived", "no test runs this line"
        seconds = round(time.monotonic() - start, 1)
        entry = {"name": mutant.name, "file": mutant.file, "text": mutant.text, "change": mutant.change}
        report.append({**entry, "outcome": outcome, "by": by, "seconds": seconds})
        print(f"{outcome:10} {seconds:6} s  {mutant.name}   [{by}]", flush=True)
        staging = options.out.with_suffix(".tmp")
        staging.write_text(json.dumps(report, indent=1))
        os.replace(staging, options.out)


def _summary(report: list[dict[str, Any]]) -> int:
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in report:
        for room in (entry["file"].split("/")[1], "all"):
            rooms[room][entry["outcome"]] += 1
    print(f"{'room':12} mutants caught equivalent survived")
    for room, count in sorted(rooms.items()):
        print(f"{room:12} {sum(count.values()):7} {count['caught']:6} {count['equivalent']:10} {count['survived']:8}")
    count = rooms["all"]
    share = count["caught"] / max(count["caught"] + count["survived"], 1)
    print(f"{share:.1%} of {count['caught'] + count['survived']} mutants that are not equivalent are caught")
    return int(share < 0.95)


if __name__ == "__main__":
    sys.exit(main())
