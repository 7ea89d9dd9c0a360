"""One-line mistakes in the package that the tests should notice: `make mutants`, not part of `.ci/run`.

Each mutant is the package with one expression or statement changed. It is written to a copy of the tree that comes
first on the path of a child process, which is forked from a process that has torch and transformers imported, and runs
the tests of the changed module's room until one fails. The report is JSON, one entry a mutant; a run that is started
again with the same report leaves out what is in it.

python -m tests.mutants --count 400 --seed 0 --out mutants.json [--only hf_clipalign/losses]
"""

from __future__ import annotations

import argparse
import ast
import copy
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = [
    *("isoclip", "losses", "metrics", "gcd", "inversion", "tuners", "backbones/packing.py", "features", "evaluation"),
    *("trainers", "hub", "data", "_io", "_checks"),
]
# tests beside those of the room itself, by the beginning of the module's path
ALSO: dict[str, list[str]] = {
    "backbones/packing": ["tests/backbones/test_packing.py"],
    "trainers/prompts": [
        "tests/trainers/prompts",
        "tests/trainers/test_checkpoints.py",
        "tests/trainers/test_teacher.py",
    ],
    "trainers/contrastive": ["tests/trainers/contrastive", "tests/data/images/test_augmentation.py"],
    "trainers/gcd": ["tests/trainers/gcd"],
    "trainers/retune": ["tests/trainers/retune", "tests/tuners/test_retune.py"],
    "trainers": ["tests/trainers"],
    "hub": ["tests/hub", "tests/gcd/test_modeling.py", "tests/isoclip"],
    "_io": ["tests/test_files.py", "tests/test_json.py", "tests/test_locks.py", "tests/test_masking.py"],
    "_checks": ["tests/test_tensors.py", "tests/test_sequences.py", "tests/test_quoting.py", "tests/losses"],
    "losses": ["tests/losses", "tests/trainers/prompts/test_parity.py"],
    "data": ["tests/data"],
    "features": ["tests/features"],
    "evaluation": ["tests/evaluation"],
    "isoclip": ["tests/isoclip", "tests/evaluation/test_heads_and_search.py"],
    "gcd": ["tests/gcd", "tests/evaluation/test_discovery.py"],
}
# mutants that change nothing that could be seen, by "file: change", each with its reason
EQUIVALENT: dict[str, str] = {}
_PRELOAD = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "pandas",
    "scipy.stats",
    "sklearn.cluster",
    "pytest",
    "PIL.Image",
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
    """One change: the bytes `start` to `end` of a file become `new`."""

    file: str
    line: int
    change: str
    start: int
    end: int
    new: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"

    def applied(self, content: bytes) -> bytes:
        """The file's content with the change."""
        return content[: self.start] + self.new.encode() + content[self.end :]


def mutants_of(file: Path, root: Path = ROOT) -> list[Mutant]:
    """Every mutant of a module, in the order of the source. Messages, types and docstrings are left alone."""
    content = file.read_bytes()
    tree, found = ast.parse(content), []
    starts = [0, *itertools.accumulate(len(line) for line in content.splitlines(keepends=True))]
    for node, new in _changes(tree):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        old_text, new_text = ast.unparse(node), "pass" if new is None else ast.unparse(new)
        if old_text == new_text:
            continue
        # in brackets: the expression may have stood over several lines, or bind more tightly than its neighbours
        inside = f"({new_text})" if isinstance(node, ast.expr) else new_text
        change = f"{' '.join(old_text.split())[:70]} -> {' '.join(new_text.split())[:70]}"
        found.append(Mutant(file.relative_to(root).as_posix(), node.lineno, change, start, end, inside))
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


def covering_tests(file: str) -> list[str]:
    """The tests that should notice: those named like the module first, then those of its room."""
    module = file.removeprefix("hf_clipalign/").removesuffix(".py")
    named = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob(f"test_{Path(module).name}.py"))
    near = [path for path in named if Path(path).parent.as_posix().removeprefix("tests/") == str(Path(module).parent)]
    longest = max((place for place in ALSO if module.startswith(place)), key=len, default=None)
    room = ALSO[longest] if longest else [f"tests/{module.split('/')[0]}"]
    return list(dict.fromkeys([*near, *(path for path in room if (ROOT / path).exists())]))


class Lane:
    """A copy of the tree that mutants are written into, and the warm process that children are forked from."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.tree = Path(tempfile.mkdtemp(prefix="mutants-"))
        for name in ("hf_clipalign", "tests", "examples", "model_cards", "benchmarks", "docs"):
            ignore = shutil.ignore_patterns("__pycache__")
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, self.tree / name, ignore=ignore)
        for file in ROOT.glob("*.*"):
            if file.is_file():
                shutil.copy(file, self.tree)
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        os.environ |= {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        for module in _PRELOAD:
            __import__(module)
        assert not any(name.split(".")[0] == "hf_clipalign" for name in sys.modules), "the package is imported already"

    def close(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)

    def run(self, mutant: Mutant | None, tests: list[str]) -> tuple[str, str]:
        """`("caught", test)`, `("survived", "")` or `("caught", "time-out")`."""
        target = self.tree / mutant.file if mutant else None
        before = target.read_bytes() if target else b""
        if mutant and target:
            target.write_bytes(mutant.applied(before))
        try:
            return self._forked(tests)
        finally:
            if target:
                target.write_bytes(before)

    def _forked(self, tests: list[str]) -> tuple[str, str]:
        log = self.tree / "failed.txt"
        log.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(self.tree, tests, log))
        give_up = time.monotonic() + self.seconds
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > give_up:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return "caught", "time-out"
            time.sleep(0.05)
        status = os.waitstatus_to_exitcode(done[1])
        if status == 0:
            return "survived", ""
        return "caught", log.read_text() if log.exists() else f"exit status {status}"


def _child(tree: Path, tests: list[str], log: Path) -> int:
    import pytest

    os.setsid()
    os.chdir(tree)
    sys.path[:] = [str(tree), *(place for place in sys.path if Path(place or ".").resolve() != ROOT)]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)

    class FirstFailure:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                log.write_text(report.nodeid)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                log.write_text(f"import of {report.nodeid}")

    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={tree}"]
    return int(pytest.main([*options, *tests], plugins=[FirstFailure()]))


def main() -> int:
    """Runs the sample; exit status 1 if less than 95 % of the mutants that are not equivalent are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    parser.add_argument("--only", help="beginning of the modules' paths, such as hf_clipalign/losses")
    parser.add_argument("--seconds", type=float, default=300, help="a mutant whose tests take longer counts as caught")
    options = parser.parse_args()
    report = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {entry["name"] for entry in report}
    waiting = [mutant for mutant in sample(options.count, options.seed, options.only) if mutant.name not in done]
    lane = Lane(options.seconds)
    try:
        _run(lane, waiting, report, options.out)
    finally:
        lane.close()
    return _summary(report)


def _run(lane: Lane, waiting: list[Mutant], report: list[dict[str, object]], out: Path) -> None:
    sound: dict[tuple[str, ...], str] = {}
    for mutant in waiting:
        tests = covering_tests(mutant.file)
        if tuple(tests) not in sound:
            sound[tuple(tests)] = lane.run(None, tests)[1]
        start, failed = time.monotonic(), sound[tuple(tests)]
        outcome, by = ("broken", f"without a mutant: {failed}") if failed else lane.run(mutant, tests)
        if f"{mutant.file}: {mutant.change}" in EQUIVALENT:
            outcome = "equivalent"
        entry = {"name": mutant.name, "file": mutant.file, "line": mutant.line, "change": mutant.change}
        seconds = round(time.monotonic() - start, 1)
        report.append({**entry, "outcome": outcome, "by": by, "seconds": seconds})
        print(f"{outcome:10} {report[-1]['seconds']:6} s  {mutant.name}" + (f"   [{by}]" if by else ""), flush=True)
        staging = out.with_suffix(".tmp")
        staging.write_text(json.dumps(report, indent=1))
        os.replace(staging, out)


def _summary(report: list[dict[str, object]]) -> int:
    count = {
        kind: sum(entry["outcome"] == kind for entry in report)
        for kind in ("caught", "survived", "equivalent", "broken")
    }
    judged = count["caught"] + count["survived"]
    share = count["caught"] / judged if judged else 0.0
    print(f"{count}: {share:.1%} of {judged} caught")
    return int(share < 0.95 or bool(count["broken"]))


if __name__ == "__main__":
    sys.exit(main())
