"""Exports and pushes that are killed with SIGKILL: `python kill_drill.py FOLDER` prints what was found after each.

One process loads the model; children by `fork` write, each killed at another step of the file system, then each after
another time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_clipalign import IsoCLIPModel
from hf_clipalign.backbones import load_model, load_processor
from hf_clipalign.data import load_mini
from hf_clipalign.hub import export_sentence_transformers, push, written_folder

N_TIMED = 24
BANDS = {"old": (1, 48), "new": (2, 20)}


def digest(folder: Path) -> str | None:
    """Names and bytes of a folder."""
    if not folder.exists():
        return None
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    content = [(file.relative_to(folder).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return json.dumps(content)


def die_at(step: int) -> None:
    """Kills this process before its `step`-th call that changes a folder or brings it to the disk."""
    calls = [0]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("mkdir", "rename", "replace", "link", "fsync", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def killed(action: Callable[[], Any], step: int | None = None, after: float | None = None) -> bool:
    """Whether a child that does `action` was killed before it ended."""
    child = os.fork()
    if child == 0:
        if step is not None:
            die_at(step)
        action()
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def drill(place: Path, write: Callable[[Path, str], Any], foreign: bool) -> dict[str, Any]:
    """Replaces the old folder by the new one, killed each time; every state is the old one or the new one."""

    def old_folder() -> None:
        shutil.rmtree(target, ignore_errors=True)
        write(target, "old")
        if foreign:
            (target / "notes.txt").write_text("mine")

    target = place / "out"
    old_folder()
    states = {digest(target): "old"}
    started = time.monotonic()
    write(target, "new")
    lasted = time.monotonic() - started
    states[digest(target)] = "new"
    found, kills, generator = [], 0, random.Random(0)
    step, alive = 1, False
    while not alive or kills < N_TIMED:
        old_folder()
        if alive:
            kills += killed(lambda: write(target, "new"), after=lasted * generator.uniform(0.2, 1.1))
        else:
            alive = not killed(lambda: write(target, "new"), step=step)
            kills += not alive
            step += 1
        found.append(states.get(digest(target), "neither"))
        if len(found) > 500:
            break
    write(target, "new")
    return {"kills": kills, "found": sorted(set(found)), "left": [path.name for path in place.iterdir()]}


def main(folder: Path) -> None:
    path = load_mini().student_path
    base, processor = load_model(path), load_processor(path)
    models = {name: IsoCLIPModel.from_clip_pretrained(base, image_band=band) for name, band in BANDS.items()}

    def export(target: Path, which: str) -> None:
        with written_folder(target, "sentence-transformers", path) as staging:
            export_sentence_transformers(models[which], staging, processor)

    def save(target: Path, which: str) -> None:
        models[which].save_pretrained(target, processor)

    def push_to_nowhere(target: Path, which: str) -> None:
        push.push_isoclip(models[which], "tester/model", processor)
        target.mkdir(exist_ok=True)
        (target / "pushed").write_text("pushed")

    push.push_folder = lambda *args, **kwargs: None  # type: ignore[assignment]
    push.save_spectrum = lambda *args, **kwargs: None
    report = {}
    for name, write in (("export", export), ("save", save), ("push", push_to_nowhere)):
        place = folder / name
        place.mkdir()
        if name == "push":
            os.environ["TMPDIR"] = str(place)
        report[name] = drill(place, write, foreign=name == "save")
    print("RESULT " + json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
