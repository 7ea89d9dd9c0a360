"""A persistent index of image folders: features on the disk, kept up to date, and embeddings of any head from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.quoting import counted, printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_write
from hf_clipalign.search.answers.calibrating import STALE, Calibrating
from hf_clipalign.search.answers.texts import prepare_texts
from hf_clipalign.search.answers.word_measuring import WordMeasuring
from hf_clipalign.search.collection.changes import UpdateReport
from hf_clipalign.search.collection.creation import (
    checked_roots,
    chosen_head,
    index_folder,
    locked,
    opened_heads,
)
from hf_clipalign.search.collection.maintenance import compacted, repaired
from hf_clipalign.search.collection.manifest import Manifest, next_generation, put_setting
from hf_clipalign.search.collection.models import INDEXED, LoadedModel, reader_version
from hf_clipalign.search.collection.scanning import ignore_rule
from hf_clipalign.search.collection.status import Status
from hf_clipalign.search.collection.stored import StoredImages
from hf_clipalign.search.collection.updating import Update
from hf_clipalign.search.duplicates import DuplicatePairs, near_duplicates
from hf_clipalign.search.engine import Searching
from hf_clipalign.search.heads import Heads
from hf_clipalign.search.sidecars.choice import prepare as prepared
from hf_clipalign.search.sidecars.choice import sidecar_states


class ImageIndex(StoredImages, Searching, Calibrating, WordMeasuring):
    """An index of the images below one or several folders. Make one with `create`, get one with `open`.

    It keeps the features before the projector, so that any head and band can be chosen when it is asked. Images are
    known by their content: a file that was renamed, copied or touched is not embedded again. It survives being killed
    at any moment, and what is on the disk proves itself (`verify`).

    An object shows one state of the index; `update`, `compact` and `set_head` move it on, and `refresh` does after
    another process changed the index. One process can write at a time, any number can read. Objects can be shared by
    threads.

    Args:
        path (`Path`): the folder of the index.
        heads (`Heads`): its projectors.
        model (`LoadedModel`, *optional*): its model, if it is at hand.

    Example:
        ```python
        >>> from hf_clipalign.search import ImageIndex
        >>> index = ImageIndex.create("photos", mini.student_path, "my.index")
        >>> print(index.update(progress=False))
        +12
        >>> len(index), index.files.names[0]
        (12, 'cat/1.png')
        ```
    """

    def __init__(self, path: Path, heads: Heads, model: LoadedModel | None = None) -> None:
        super().__init__(path, heads)
        self._model = model

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        model: Any,
        path: str | os.PathLike[str],
        *,
        processor: Any = None,
        model_name: str | None = None,
        head: Any = "auto",
        ignore: Sequence[str] = (),
        shard_size: int = 4096,
    ) -> ImageIndex:
        """Begins an index; `update` fills it.

        Args:
            folder (path or sequence of paths): the folders to index, with all that lies below them.
            model (`str`, `Path`, `nn.Module` or `DualEncoder`): a checkpoint folder, a Hub id, or a model.
            path (`str` or `os.PathLike`): where the index is to be: a new folder on a disk of this machine.
            processor (`ProcessorMixin` or image processor, *optional*): loaded from the model's name by default.
            model_name (`str`, *optional*): what to load the model by later. Default: where it was loaded from.
            head (`"auto"`, `"raw"` or `(k_top, k_bottom)`, *optional*, defaults to `"auto"`): the band of the aligned
                head; auto takes that of an aligned model, or the published one of a known checkpoint, else none.
            ignore (`Sequence[str]`, *optional*): patterns of names that are left out, as in a `.gitignore`.
            shard_size (`int`, *optional*, defaults to `4,096`): images in one file of features.

        Returns:
            `ImageIndex`.

        Raises:
            `ClipAlignError`: the folder is missing, two folders overlap, there is an index already, or the model
                cannot be loaded.
        """
        target, roots = index_folder(path), checked_roots(folder)
        patterns = [ignore] if isinstance(ignore, str) else list(ignore)
        ignore_rule(patterns)
        sizes = {"shard_size": check_integer("shard_size", shard_size)}
        if target.exists() and not target.is_dir():
            raise ClipAlignError(f"{printable(str(target))!r} is a file: give a new folder for the index.")
        from hf_clipalign.features.rows import FEATURES

        if (target / FEATURES.manifest_file).exists():
            raise ClipAlignError(f"{printable(str(target))!r} holds features: give a new folder for the index.")
        loaded = LoadedModel(model, processor, model_name)
        encoder, band = chosen_head(loaded, head)
        description = {**loaded.describe(), **sizes, "roots": roots, "ignore": patterns}
        with locked(target):
            manifest = Manifest(target)
            if manifest.path.exists():
                raise ClipAlignError(
                    f"{printable(str(target))!r} holds an index already: open it with ImageIndex.open, or give "
                    "another folder."
                )
            heads = Heads.of(encoder, description, band)
            heads.save(target, INDEXED.key(description))
            with explained_write(target):
                manifest.create(map(os.fsencode, roots), {"description": heads.description})
        return cls(target, heads, loaded)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ImageIndex:
        """Opens an index; nothing but its head is read, and no model is loaded.

        Raises:
            `ClipAlignError`: the folder holds no index, one of a newer format, or one that cannot be read.
        """
        target = index_folder(path)
        return cls(target, opened_heads(target))

    def __repr__(self) -> str:
        return f"ImageIndex({printable(str(self.path))!r}, {counted(len(self), 'image')})"

    def status(self) -> Status:
        """What the index holds, how it is searched, and what is known of its scores."""
        return replace(
            super().status(),
            levels=sidecar_states(self),
            confidence=self.confidence_states(),
            words=self.word_state(),
            head_choice=self.head_choice,
        )

    def put_setting(self, name: str, value: Any) -> None:
        """Stores a value of JSON in the index, or removes it (None).

        Raises:
            `ClipAlignError`: the index is read-only, or another process writes to it.
        """
        with locked(self.path), self._manifest.writing() as connection:
            put_setting(connection, f"user.{name}", value)
        self.refresh()

    def duplicates(self, threshold: float = 0.95, head: str | None = None) -> DuplicatePairs:
        """Pairs of images whose embeddings are near; see `near_duplicates`.

        Args:
            threshold (`float`, *optional*, defaults to `0.95`): smallest cosine.
            head (`str`, *optional*): defaults to `"aligned"` where there is one.
        """
        return near_duplicates(self.embeddings(head or self.heads[-1]), threshold)

    # queries

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings `[Q, d]` of texts under the raw head; the model is loaded at the first call.

        Raises:
            `ClipAlignError`: the model cannot be loaded or is another one; a text is beyond its context.
        """
        return self._checked_model().texts(texts)

    def encode_images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Features `[Q, w]` of images as the index stores them: `projector(head)` takes them.

        Args:
            images (`Sequence`): paths, PIL images, or what else `read_image` takes.

        Raises:
            `ClipAlignError`: an image cannot be read; the model cannot be loaded or is another one.
        """
        return self._checked_model().images(images)

    # changes

    def update(
        self,
        *,
        model: Any = None,
        processor: Any = None,
        repair: bool = False,
        prepare: bool = True,
        batch_size: int = 64,
        num_workers: int | None = None,
        progress: bool | Callable[[int, int], None] = True,
    ) -> UpdateReport:
        """Brings the index up to date with its folders: only images whose content is new are embedded.

        What a large index is searched with follows (`prepare`). What its scores mean is not measured again, since that
        embeds some images several times: a note of the report says when `calibrate` is due, and so do answers.

        Args:
            model (`str`, `Path`, `nn.Module` or `DualEncoder`, *optional*): the model of the index, if it cannot be
                loaded by its name.
            processor (`ProcessorMixin` or image processor, *optional*): of that model.
            repair (`bool`, *optional*, defaults to `False`): mend what `verify` finds, and try skipped files again.
            prepare (`bool`, *optional*, defaults to `True`): bring levels for large indexes up to date, and prove the
                short way of words if the model had to be loaded.
            batch_size (`int`, *optional*, defaults to `64`): images per pass.
            num_workers (`int`, *optional*): processes that read images. Default: as in `extract_to_store`.
            progress (`bool` or `Callable`, *optional*, defaults to `True`): show a progress bar on a terminal; or a
                function that is called after each pass with how many new images are done, and of how many.

        Returns:
            `UpdateReport`.

        Raises:
            `ClipAlignError`: another process writes to the index, it is damaged, the disk is full, or the model is
                another one.
        """
        check_integer("batch_size", batch_size)
        if model is not None:
            given = LoadedModel(model, processor)
            given.check(self.description, self.path)
            self._model = given
        with locked(self.path):
            self._heads = opened_heads(self.path)
            mended = repaired(self._manifest, self.description, self._checked_model) if repair else []
            report = self._updating(repair, batch_size, num_workers, progress).run()
            report.notes += [f"mended: {problem}" for problem in mended]
            compacted(self._manifest, self.description, when_due=True)
        self.refresh()
        report.notes += self._heads.damage
        if prepare:
            report.notes += self._prepared()
        return report

    def _prepared(self) -> list[str]:
        """Brings up to date what follows from the features; what was done or is to be done, one line each."""
        if self._model is not None:
            prepare_texts(self)
        lines = prepared(self)
        if any(state["state"] == STALE for state in [*self.confidence_states(), self.word_state()]):
            lines.append("the confidence is stale: run `clipalign index`, or calibrate() and measure_words()")
        return lines

    def compact(self) -> int:
        """Removes the features of deleted images from the disk; an update does it when a quarter is deleted.

        Returns:
            `int`: how many were removed.

        Raises:
            `ClipAlignError`: another process writes to the index, a shard is damaged, or the disk is full.
        """
        with locked(self.path):
            removed = compacted(self._manifest, self.description)
        self.refresh()
        return removed

    def set_head(self, image_band: tuple[int, int] | None = None) -> None:
        """Sets the band of the aligned head, or removes it (None).

        Args:
            image_band (`(k_top, k_bottom)`, *optional*): see `hf_clipalign.isoclip.trim_projectors`.

        Raises:
            `ClipAlignError`: the band keeps nothing, or another process writes to the index.
        """
        with locked(self.path):
            heads = opened_heads(self.path).with_band(image_band)
            with self._manifest.writing() as connection:
                # before, too: what is derived from the old head is stale if this is killed
                next_generation(connection)
            heads.save(self.path, INDEXED.key(self.description))
            with self._manifest.writing() as connection:
                put_setting(connection, "description", heads.description)
                next_generation(connection)
        self.refresh()

    def known_band(self) -> tuple[int, int] | None:
        """The band of an aligned model, or the published one of a known checkpoint; None for others.

        Raises:
            `ClipAlignError`: the model cannot be loaded or is another one.
        """
        return chosen_head(self._checked_model(), "auto")[1]

    def _updating(self, repair: bool, batch_size: int, num_workers: int | None, progress: Any) -> Update:
        about = self.description
        return Update(
            manifest=self._manifest,
            key=INDEXED.key(about),
            width=about["width"],
            shard_size=about["shard_size"],
            roots=self.roots,
            ignore=about["ignore"],
            load=self._checked_model,
            reader=reader_version(),
            retry=repair,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        )

    def _checked_model(self) -> LoadedModel:
        if self._model is None:
            name = self.description["model"]["name"]
            if name is None:
                raise ClipAlignError(
                    f"the index {str(self.path)!r} does not say where its model is: give it to update(model=…)."
                )
            loaded = LoadedModel(name)
            loaded.check(self.description, self.path)
            self._model = loaded
        return self._model
