"""The collection that an app shows: opened at once, or made in the background while the page shows how far it is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.bands import Bands
from hf_clipalign.search.files import Files
from hf_clipalign.search.folded import FoldedRows
from hf_clipalign.search.heads import ALIGNED, RAW, Heads
from hf_clipalign.search.index import ImageIndex


class View:
    """One state of an index, ready to be searched; it can be shared by threads.

    Args:
        index (`ImageIndex`): of at least one image.
    """

    def __init__(self, index: ImageIndex) -> None:
        self.index, self.files, self.generation = index, index.files, index.generation
        self.plain = FoldedRows(index.features(), index.projector(RAW, "image"))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.plain)

    @cached_property
    def _bands(self) -> Bands:
        return Bands(self.index.features(), Heads.load(self.index.path))

    @property
    def bands(self) -> Bands:
        """The collection behind any band."""
        with self._lock:
            return self._bands

    def plain_scores(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines `[N]` of all images with a unit vector in the space of the raw head."""
        scores = np.empty(len(self), np.float32)
        step = max(1, 2**23 // max(1, self.plain.features.width))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            scores[start:stop] = self.plain.scores(vector[None], start, stop)[0]
        return scores

    def calibration(self, head: str, band: tuple[int, int] | None = None) -> Any:
        """What turns scores of a head into confidences, where the index has it for that head and band."""
        if head == ALIGNED and band != self.index.band:
            return None
        return self.index.calibration(head)

    def files_of(self, row: int) -> list[int]:
        """The files that show the image of a row."""
        return [int(number) for number in self.files.of_image(row)]


@dataclass(frozen=True)
class Progress:
    """How far a collection is.

    Attributes:
        state (`str`): `"embedding"`, `"ready"` or `"failed"`.
        done (`int`), total (`int`): images; a total of 0 is not known yet.
        message (`str`): what went wrong.
    """

    state: str
    done: int = 0
    total: int = 0
    message: str = ""


@dataclass
class Workspace:
    """A collection and what is known about it.

    Args:
        open_index (`Callable`): opens or makes the index; called once, in the background.
        is_to_update (`bool`): whether new images of the folders are then embedded.
        template (`str`): the prompt for concepts, with one `{}`.
        notes (`Sequence[str]`): what the user should know, shown on top of the page.
        count_files (`Callable`, *optional*): how many images there will be, for the progress.
        model (*optional*): the model of the index, if it cannot be loaded by its name.
        may_choose_band (`bool`, *optional*, defaults to `False`): choose a band where none is set, on views of some
            images.
    """

    open_index: Callable[[], ImageIndex]
    is_to_update: bool
    template: str
    notes: Sequence[str] = ()
    count_files: Callable[[], int] | None = None
    model: Any = None
    may_choose_band: bool = False
    is_measuring: bool = False
    _view: View | None = None
    _index: ImageIndex | None = None
    _total: int = 0
    _failure: str = ""
    _notes_of_update: list[str] = field(default_factory=list)
    _model_lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> threading.Thread:
        """Opens the index in the background."""
        thread = threading.Thread(target=self.prepare, name="clipalign-index", daemon=True)
        thread.start()
        return thread

    def prepare(self) -> None:
        """Opens the index, embeds what is new, and makes it ready to be searched; a failure is shown on the page."""
        try:
            index = self.open_index()
            if self.is_to_update:
                self._total = self.count_files() if self.count_files is not None else 0
                self._index = index
                with self._model_lock:
                    report = index.update(model=self.model, progress=False)
                for root in report.missing_roots:
                    self._notes_of_update.append(f"{root} is not there; nothing of it was forgotten.")
            if not len(index):
                raise ClipAlignError(f"there are no images in {', '.join(index.roots)}: give another folder.")
            self._view = View(index)
            self._view.bands.lengths((0, 0))
            self._load_model()
            if self.is_to_update:
                self._measure(index)
        except ClipAlignError as error:
            self._failure = str(error)
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"

    def _measure(self, index: ImageIndex) -> None:
        """Measures what scores mean; the collection can be searched meanwhile."""
        if not index.is_calibration_due:
            return
        self.is_measuring = True
        try:
            self._notes_of_update += index.calibrate(choose_band=self.may_choose_band, progress=False)
            self._view = View(index)
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
        """The collection.

        Raises:
            `ClipAlignError`: it is not ready, or could not be opened.
        """
        if self._view is None:
            raise ClipAlignError(describe(self.progress()))
        return self._view

    def progress(self) -> Progress:
        """How far the collection is."""
        if self._view is not None:
            return Progress("ready", len(self._view), len(self._view))
        if self._failure:
            return Progress("failed", message=self._failure)
        done = 0
        if self._index is not None:
            try:
                done = self._index.status().images
            except ClipAlignError:
                done = 0
        return Progress("embedding", min(done, self._total or done), self._total)

    def all_notes(self) -> list[str]:
        """What the user should know."""
        notes = [*self.notes, *self._notes_of_update]
        if self.is_measuring:
            notes.append("Measuring what scores mean in this collection: confidences are shown when it is done.")
        skipped = [] if self._view is None else self._view.index.status().skipped
        if skipped:
            notes.append(f"{len(skipped)} files could not be read and are left out.")
        return notes

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings `[Q, d]` of texts under the raw head."""
        index = self.view.index
        with self._model_lock:
            return index.encode_texts(texts)

    def encode_images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Features `[Q, w]` of images before the projector."""
        index = self.view.index
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


def file_name(files: Files, number: int) -> str:
    """The name of a file for people, below its folder."""
    return files.names[number]


def cache_folder(index_path: Path) -> Path:
    """Where the thumbnails of an index lie."""
    return index_path / "thumbnails"
