"""The collection that an app shows: opened at once, or made in the background while the page shows how far it is."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.view import State, View, newest_state
from hf_clipalign.search.collection.models import INDEXED
from hf_clipalign.search.files import Files
from hf_clipalign.search.index import ImageIndex

_KEPT_STATES = 8
"""So many states of an index are known by their files: a page may still show images of one before the last."""


@dataclass(frozen=True)
class Progress:
    """How far a collection is.

    Attributes:
        state (`str`): `"embedding"`, `"ready"` or `"failed"`.
        done (`int`), total (`int`): new images; a total of 0 is not known yet.
        message (`str`): what went wrong; beside `"ready"`, while new images were embedded.
    """

    state: str
    done: int = 0
    total: int = 0
    message: str = ""


@dataclass
class Workspace:
    """A collection and what is known about it.

    What an index holds already can be searched while new images are embedded, and changes of other processes are
    shown with the next query.

    Args:
        open_index (`Callable`): opens or makes the index; called once, in the background.
        is_to_update (`bool`): whether new images of the folders are then embedded.
        template (`str`): the prompt for concepts, with one `{}`.
        notes (`Sequence[str]`): what the user should know, shown on top of the page.
        model (*optional*): the model of the index, if it cannot be loaded by its name.
        may_choose_band (`bool`, *optional*, defaults to `False`): choose a band where none is set, on views of some
            images.
    """

    open_index: Callable[[], ImageIndex]
    is_to_update: bool
    template: str
    notes: Sequence[str] = ()
    model: Any = None
    may_choose_band: bool = False
    is_measuring: bool = False
    _index: ImageIndex | None = None
    _view: View | None = None
    _state: State = (0, 0)
    _files: OrderedDict[int, Files] = field(default_factory=OrderedDict)
    _embedded: tuple[int, int] = (0, 0)
    _is_updating: bool = False
    _is_prepared: bool = False
    _failure: str = ""
    _notes_of_update: list[str] = field(default_factory=list)
    _model_lock: threading.Lock = field(default_factory=threading.Lock)
    _view_lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> threading.Thread:
        """Opens the index in the background."""
        thread = threading.Thread(target=self.prepare, name="clipalign-index", daemon=True)
        thread.start()
        return thread

    def prepare(self) -> None:
        """Opens the index, embeds what is new, and makes it ready to be searched; a failure is shown on the page."""
        try:
            self._index = index = self.open_index()
            if len(index):
                self._show()
                if self.model is None:
                    self._load_model()
            if self.is_to_update:
                self._update(index)
            if not len(index):
                raise ClipAlignError(f"there are no images in {', '.join(index.roots)}: give another folder.")
            self._show()
            self._load_model()
            if self.is_to_update:
                self._measure(index)
        except ClipAlignError as error:
            self._failure = str(error)
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            self._is_prepared = True

    def _update(self, index: ImageIndex) -> None:
        self._is_updating = True
        try:
            report = index.update(model=self.model, progress=self._note_progress)
        finally:
            self._is_updating = False
        for root in report.missing_roots:
            self._notes_of_update.append(f"{printable(root)} is not there; nothing of it was forgotten.")

    def _note_progress(self, done: int, total: int) -> None:
        self._embedded = done, total

    def _measure(self, index: ImageIndex) -> None:
        """Measures what scores mean; the collection can be searched meanwhile."""
        if not index.is_calibration_due:
            return
        self.is_measuring = True
        try:
            self._notes_of_update += index.calibrate(choose_band=self.may_choose_band, progress=False)
            self._show()
        except ClipAlignError as error:
            self._notes_of_update.append(f"no confidence: {error}")
        finally:
            self.is_measuring = False

    def _load_model(self) -> None:
        """Loads the model before the first query needs it; one that cannot be loaded is reported by the query."""
        with contextlib.suppress(ClipAlignError):
            self.encode_texts(["an image"])

    @property
    def view(self) -> View:
        """The newest state of the collection.

        Raises:
            `ClipAlignError`: it is not ready, could not be opened, or has gone.
        """
        if self._view is None:
            raise ClipAlignError(describe(self.progress()))
        if newest_state(self._view.index.path) != self._state and self._view_lock.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._view_lock.release()
        return self._view

    def shown_files(self, generation: int) -> Files:
        """The files of the collection as a page of that generation numbers them.

        Raises:
            `ClipAlignError`: it is too long ago.
        """
        files = self._files.get(generation)
        if files is None:
            raise ClipAlignError("the collection has changed since this page was made: search again.")
        return files

    def _show(self) -> None:
        with self._view_lock:
            self._renew()

    def _renew(self) -> None:
        """Reads the newest state of the index into an object that no update moves on."""
        made_with: Any = self._index
        state = newest_state(made_with.path)
        index = ImageIndex.open(made_with.path)
        if INDEXED.key(index.description) != INDEXED.key(made_with.description):
            raise ClipAlignError("the index was made anew with another model: start the app again.")
        if not len(index):
            raise ClipAlignError("the index holds no images any more: add some, and run `clipalign index` on it.")
        view = View(index)
        view.bands.lengths((0, 0))
        self._files[view.generation] = view.files
        self._files.move_to_end(view.generation)
        while len(self._files) > _KEPT_STATES:
            self._files.popitem(last=False)
        self._view, self._state = view, state

    @property
    def is_waiting(self) -> bool:
        """Whether what the page says of the collection still changes by itself."""
        return not self._is_prepared

    def progress(self) -> Progress:
        """How far the collection is."""
        if self._view is not None:
            return Progress("ready", len(self._view), len(self._view), self._failure)
        if self._failure:
            return Progress("failed", message=self._failure)
        return Progress("embedding", *self._embedded)

    def all_notes(self) -> list[str]:
        """What the user should know."""
        notes = [*self.notes, *self._notes_of_update]
        if self._view is not None and self._is_updating:
            done, total = self._embedded
            of = f": {done:,} of {total:,}" if total else " are looked for"
            notes.append(f"New images of the folder{of}. What is indexed already can be searched meanwhile.")
        if self.is_measuring:
            notes.append("Measuring what scores mean in this collection: confidences are shown when it is done.")
        if skipped := self._count_skipped():
            what = "1 file is" if skipped == 1 else f"{skipped:,} files are"
            notes.append(f"{what} left out, as they cannot be read: `clipalign status` says why.")
        return notes

    def _count_skipped(self) -> int:
        with contextlib.suppress(ClipAlignError):
            return 0 if self._view is None else len(self._view.index.status().skipped)
        return 0

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings `[Q, d]` of texts under the raw head."""
        index: Any = self._index
        with self._model_lock:
            return index.encode_texts(texts)

    def encode_images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Features `[Q, w]` of images before the projector."""
        index: Any = self._index
        with self._model_lock:
            return index.encode_images(images)


def describe(progress: Progress) -> str:
    """One line on how far a collection is."""
    if progress.state == "failed":
        return progress.message
    if progress.state == "ready":
        return f"{progress.total:,} images."
    if not progress.total:
        return "Looking for images and loading the model …"
    return f"Embedding images: {progress.done:,} of {progress.total:,}. The page becomes searchable when it is done."
