"""The folder of an incremental run: which tasks are learned, the adapter after each, what was measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file, atomic_folder, exclusive_lock, explained_read
from hf_clipalign._io.limited_json import BadJson, check_schema, checked_json, entries
from hf_clipalign.data import FindingPrompts, SeenRows
from hf_clipalign.evaluation import IncrementalResult
from hf_clipalign.hub.retune_folder import STATE_FILE

OPTIMIZER_FILE, SEEN_FILE = "optimizer.safetensors", "seen.safetensors"
_FORMAT = 1
_STATE = {
    "model": (None, {"name": (None, str), "weights": str}),
    "adapter": (None, dict),
    "prompts": entries({"positive": [str], "negative": [str]}),
    "tasks": [{"name": str, "findings": [str]}],
    "before?": [str],
    "result?": (None, dict),
}
_START = "start"


class RETuneState:
    """What a folder says about the tasks that were learned there; written after every task, in one move.

    `retune.json` names the model by a hash of its weights, the adapter's shape, the prompts, and the tasks;
    `tasks/000/` and so on hold the adapter after each, and the newest one the optimizer's moments.

    Args:
        folder (`str` or `Path`): the run's output folder.
        learned (`Mapping`, *optional*): prompts of the findings that the adapter given has learned elsewhere. They
            count where nothing has begun yet.

    Raises:
        `ClipAlignError`: the folder holds a state that cannot be read.

    Example:
        ```python
        >>> from hf_clipalign.trainers import RETuneState
        >>> RETuneState("runs/not-begun").begun
        False
        ```
    """

    def __init__(self, folder: str | Path, learned: Mapping[str, Any] | None = None):
        self.folder = Path(folder)
        self.content: dict[str, Any] = {"format": _FORMAT, "model": None, "adapter": None, "prompts": {}, "tasks": []}
        self.content |= {"prompts": dict(learned or {}), "before": list(learned or {})}
        file = self.folder / STATE_FILE
        if not file.is_file():
            return
        with explained_read(file):
            text = file.read_bytes()
        try:
            content = checked_json(text, {"format": object})
            if content["format"] == _FORMAT:
                check_schema(content, _STATE)
        except BadJson as error:
            raise ClipAlignError(
                f"{file}: cannot be read, it {error}; use another output_dir, or remove it to begin again."
            ) from error
        if content["format"] != _FORMAT:
            raise ClipAlignError(
                f"{file}: has format {short(content['format'])}, this version of hf_clipalign reads {_FORMAT}: update "
                "it."
            )
        self.content = {"before": [], **content}

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The tasks that are done, in order."""
        return self.content["tasks"]

    @property
    def done(self) -> dict[str, dict[str, Any]]:
        """The tasks that are done, by name."""
        return {entry["name"]: entry for entry in self.tasks}

    @property
    def begun(self) -> bool:
        """Whether a run has begun here."""
        return self.content["model"] is not None

    @property
    def prompts(self) -> dict[str, dict[str, list[str]]]:
        """The prompts of all findings that took part so far."""
        return self.content["prompts"]

    @property
    def before(self) -> list[str]:
        """The findings that the adapter had learned elsewhere when this run began."""
        return self.content["before"]

    @property
    def learned(self) -> list[str]:
        """All findings that the adapter has learned, in order."""
        return list(dict.fromkeys([*self.before, *(name for task in self.tasks for name in task["findings"])]))

    @property
    def result(self) -> IncrementalResult | None:
        """What was measured after the tasks, if anything was."""
        stored = self.content.get("result")
        return None if stored is None else IncrementalResult.from_json(json.dumps(stored))

    @property
    def adapter_folder(self) -> Path:
        """The newest adapter."""
        return self._task_folder(len(self.tasks) - 1)

    @property
    def seen(self) -> SeenRows:
        """The images and patients of all tasks that are done, as far as the folder has kept them."""
        files = [self._task_folder(index) / SEEN_FILE for index in range(len(self.tasks))]
        seen = SeenRows(np.empty(0, np.int64), np.empty(0, np.int64))
        for file in files:
            if file.is_file():
                seen |= SeenRows(**load_file(file))
        return seen

    def held(self) -> AbstractContextManager:
        """Keeps a second run out of the folder.

        Raises:
            `ClipAlignError`: another run learns there.
        """
        busy = f"another run is learning in {str(self.folder)!r}: use another output_dir."
        return exclusive_lock(self.folder / ".retune.lock", busy)

    def check(self, model: dict[str, Any], adapter: dict[str, Any]) -> None:
        """Compares model and adapter with those that the folder was begun with.

        Raises:
            `ClipAlignError`: they are others.
        """
        if not self.begun:
            return
        there = self.content["model"]
        if there["weights"] != model["weights"]:
            raise ClipAlignError(
                f"{str(self.folder)!r} was begun with another model ({there['name']}) than the one given "
                f"({model['name']}): give that model, or another output_dir."
            )
        for name, value in self.content["adapter"].items():
            if value != adapter[name]:
                raise ClipAlignError(
                    f"{str(self.folder)!r} was begun with {name}={value!r}, the adapter given has {adapter[name]!r}: "
                    "give the same, or another output_dir."
                )

    def merged_prompts(self, given: FindingPrompts) -> FindingPrompts:
        """The prompts of the folder and those given.

        Raises:
            `ClipAlignError`: a finding that was learned has other prompts now.
        """
        new = given.to_dict()
        place, way_out = ("the adapter", "a fresh adapter")
        if self.begun:
            place, way_out = (repr(str(self.folder)), "another output_dir")
        for name, prompts in self.prompts.items():
            if new.get(name, prompts) != prompts:
                raise ClipAlignError(
                    f"the prompts of {name!r} are not those that it was learned with in {place}: give the same, or "
                    f"{way_out}."
                )
        both = {**self.prompts, **new}
        return FindingPrompts(*({name: p[kind] for name, p in both.items()} for kind in ("positive", "negative")))

    def prompts_of(self, given: FindingPrompts | None, findings: Sequence[str]) -> FindingPrompts:
        """The prompts given, those that the folder was learned with, and published ones where none are given.

        Raises:
            `ClipAlignError`: a finding without prompts, or one that was learned with others.
        """
        if given is None:
            new = [name for name in dict.fromkeys(findings) if name not in self.prompts]
            given = FindingPrompts.published(new) if new or not self.prompts else None
        known = self.prompts
        kinds = ({name: prompts[kind] for name, prompts in known.items()} for kind in ("positive", "negative"))
        merged = FindingPrompts(*kinds) if given is None else self.merged_prompts(given)
        if findings and given is not None:
            merged.select(list(dict.fromkeys(findings)))
        return merged

    def begin(
        self, model: dict[str, Any], adapter: dict[str, Any], prompts: FindingPrompts, save: Callable[[Path], None]
    ) -> None:
        """Notes what is trained, and keeps the adapter that it starts from."""
        if not self.begun:
            self._write_folder(self._task_folder(-1), save)
        both = {**self.prompts, **prompts.to_dict()}
        self._write({**self.content, "model": model, "adapter": adapter, "prompts": both})

    def add_task(self, task: dict[str, Any], result: IncrementalResult | None, save: Callable[[Path], None]) -> None:
        """Keeps the adapter after a task, then says that it is done."""
        index = len(self.tasks)
        self._write_folder(self._task_folder(index), save)
        content = {**self.content, "tasks": [*self.tasks, task]}
        if result is not None:
            content["result"] = json.loads(result.to_json())
        self._write(content)
        (self._task_folder(index - 1) / OPTIMIZER_FILE).unlink(missing_ok=True)

    def _task_folder(self, index: int) -> Path:
        return self.folder / "tasks" / (_START if index < 0 else f"{index:03d}")

    def _write_folder(self, folder: Path, save: Callable[[Path], None]) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped before it could say that it is done
        with atomic_folder(folder) as staging:
            save(staging)

    def _write(self, content: dict[str, Any]) -> None:
        write_text(self.folder / STATE_FILE, json.dumps(content, indent=1))
        self.content = content


def write_seen(folder: Path, seen: SeenRows) -> None:
    """Keeps hashes of the images and patients of a task."""
    save_file({"images": seen.images, "patients": seen.patients}, folder / SEEN_FILE)


def write_text(path: Path, text: str) -> None:
    """Writes a file of a run atomically."""
    with atomic_file(path) as staging:
        staging.write_text(text, encoding="utf-8")
