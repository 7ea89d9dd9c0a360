"""Folders of tar files, as img2dataset and other writers of WebDataset leave them: read where they lie."""

from __future__ import annotations

import logging
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import printable, quoted, readable_name, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, limited_json
from hf_clipalign.data.images.containers.layouts import is_folder_of, numbered_files
from hf_clipalign.data.images.containers.tar_contents import TarContent, read_tar
from hf_clipalign.data.images.file_kinds import image_extensions
from hf_clipalign.data.images.source import ImageSource, digest, file_state
from hf_clipalign.data.labels.columns import is_missing, numbers_of_texts, read_labels, read_texts

logger = logging.getLogger(__name__)

_CLASS = "cls"  # how WebDataset names a class number
_SHOWN = 3


def image_tars(
    path: str | os.PathLike[str],
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    keep_failed: bool = True,
) -> ImageSource:
    """Opens a folder of tar files in the WebDataset layout, such as img2dataset writes; nothing is unpacked.

    Files of one name are one sample: `000010007.jpg`, `000010007.txt`, `000010007.json`. The headers of all tars are
    read once; an image is read from its tar when it is asked for. Beside `00001.tar` img2dataset writes
    `00001.parquet` with a row for every link: images that it could not fetch or resize are counted in a warning and
    stay in the source, with the reason in the place of the image, so that a feature store names them. The same holds
    for images that a tar has lost because it is cut off.

    Args:
        path (`str` or `os.PathLike`): the folder, or one tar file.
        image_column (`str`, *optional*): ending of the images, such as `"jpg"` or `"left.png"`. Not needed where every
            sample has one image.
        label_column (`str`, *optional*): ending of a file with the class, or an entry of the JSON file. Default:
            `"cls"` where there is one.
        text_column (`str`, *optional*): ending of a file with a caption, such as `"txt"`, or an entry of the JSON.
        keep_failed (`bool`, *optional*, defaults to `True`): False leaves out what is known to have failed: for
            training, where an image that cannot be read is an error.

    Returns:
        `ImageSource`: tars in the order of their numbers, samples in the order of the tar, then what failed of it. The
        ids are the samples' names, with that of the tar (`"00001/000010007"`) only where they occur in several.

    Raises:
        `ClipAlignError`: there is no tar, none holds an image, samples have several images, a name occurs twice in a
            tar, or a label is missing.

    Example:
        ```python
        >>> from hf_clipalign.data import image_tars
        >>> source = image_tars("tars", text_column="txt")
        >>> source
        ImageSource('tars', 3 images, no labels, 3 texts)
        >>> source.ids[0], source.texts[0]
        ('000000000', ['a cat'])
        ```
    """
    root = Path(path).expanduser()
    name = printable(str(root))
    if not root.exists():
        raise ClipAlignError(f"{name}: no such folder; pass the folder that holds 00000.tar, 00001.tar, …")
    files = tar_files(root)
    if not files:
        raise ClipAlignError(f"{name}: no tar files in it; pass the folder that holds 00000.tar, 00001.tar, …")
    found = _Found(name, image_column, label_column, text_column, keep_failed)
    for file in files:
        found.add(read_tar(file))
    return found.source(files)


def tar_files(path: Path) -> list[Path]:
    """The tar files of a folder in the order of their numbers; a tar file itself; none of anything else."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".tar" else []
    return numbered_files(path, ".tar")


def is_tar_folder(path: Path) -> bool:
    """Whether a folder holds tar files, and neither images nor other folders that could be meant instead."""
    return is_folder_of(path, ".tar")


class TarImages(Sequence):
    """Encoded images inside tar files, each read when it is asked for.

    Args:
        paths (`list[str]`): the tar files.
        tars (`np.ndarray [N]`): which of them an image is in.
        places (`np.ndarray [N, 2]`): where it begins and how many bytes it has.
        failures (`dict[int, str]`): why there is none, by row.
    """

    def __init__(self, paths: list[str], tars: np.ndarray, places: np.ndarray, failures: dict[int, str]) -> None:
        self.paths, self.tars, self.places, self.failures = paths, tars, places, failures

    def __len__(self) -> int:
        return len(self.tars)

    def __getitem__(self, row: Any) -> Any:
        if (reason := self.failures.get(int(row))) is not None:
            raise ClipAlignError(reason)
        path, (start, size) = self.paths[self.tars[row]], self.places[row].tolist()
        try:
            with open(path, "rb") as stream:
                stream.seek(start)
                data = stream.read(size)
        except OSError as error:
            raise ClipAlignError(f"{printable(path)}: cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise ClipAlignError(f"{printable(path)}: is shorter than when it was opened; fetch it again")
        return data


class _Found:
    """The samples of one tar after the other."""

    def __init__(
        self,
        name: str,
        image_column: str | None,
        label_column: str | None,
        text_column: str | None,
        keep_failed: bool,
    ) -> None:
        self.name, self.ending, self.keep_failed = name, image_column, keep_failed
        self.label_column, self.text_column = label_column, text_column
        self.keys: list[str] = []
        self.tars, self.starts, self.sizes = array("i"), array("q"), array("q")
        self.failures: dict[int, str] = {}
        self.labels: list[Any] = []
        self.texts: list[Any] = []
        self.problems: list[str] = []
        self.failed: Counter[str] = Counter()
        self.stems: list[str] = []

    def add(self, tar: TarContent) -> None:
        """Takes over what has an image, in the order of the tar, then what is known to have failed."""
        self.stems.append(tar.path.stem)
        if tar.problem:
            self.problems.append(f"{printable(tar.path.name)}: {tar.problem}")
        self._choose_endings(tar)
        failed = dict(tar.failed)
        for key, sample in tar.samples.items():
            place = sample.get(str(self.ending))
            if place is None:
                if key in tar.table:
                    failed.setdefault(key, f"lost: it has no file ending in .{self.ending}")
            elif tar.holds(place):
                failed.pop(key, None)
                self._append(tar, key, place)
            else:
                failed[key] = f"lost: {tar.problem}"
        self.failed.update(reason.partition(":")[0] for reason in failed.values())
        for key in sorted(failed) if self.keep_failed else ():
            self.failures[len(self.keys)] = f"{printable(str(tar.path))}, {printable(key)}: {failed[key]}"
            self._append(tar, key, (0, 0))

    def source(self, files: list[Path]) -> ImageSource:
        """All of it."""
        if len(self.failures) == len(self.keys):
            raise ClipAlignError(
                f"{self.name}: none of its {len(files)} tar files holds an image "
                f"({'; '.join(self.problems[:1]) or f'looked for .{self.ending or image_extensions()[0][1:]}'})"
            )
        self._log(len(files))
        labels, class_names, texts = None, None, None
        if self.label_column is not None:
            labels, class_names = read_labels(numbers_of_texts(self.labels), self.label_column, self.name)
        if self.text_column is not None:
            if all(map(is_missing, self.texts)):
                raise ClipAlignError(
                    f"{self.name}: no sample has a file ending in .{self.text_column}, or that entry in its JSON"
                )
            texts = read_texts(self.texts, self.text_column, self.name)
        tars = np.array(self.tars, dtype=np.int32)
        places = np.stack([np.array(self.starts, dtype=np.int64), np.array(self.sizes, dtype=np.int64)], axis=1)
        chosen = [str(self.ending), str(self.label_column), str(self.text_column), str(self.keep_failed)]
        return ImageSource(
            TarImages([str(file) for file in files], tars, places, self.failures),
            ids=self._ids(),
            labels=labels,
            class_names=class_names,
            texts=texts,
            name=self.name,
            fingerprint=partial(_fingerprint, files, chosen),
        )

    def _append(self, tar: TarContent, key: str, place: tuple[int, int]) -> None:
        self.keys.append(readable_name(key))
        self.tars.append(len(self.stems) - 1)
        self.starts.append(place[0])
        self.sizes.append(place[1])
        for column, cells in ((self.label_column, self.labels), (self.text_column, self.texts)):
            if column is not None:
                cells.append(_cell(tar, key, column))

    def _choose_endings(self, tar: TarContent) -> None:
        """Images and classes are where the first sample with an image has them."""
        if self.ending is not None:
            return
        for sample in tar.samples.values():
            found = [ending for ending in sample if f".{ending}".lower().endswith(image_extensions())]
            if len(found) > 1:
                raise ClipAlignError(
                    f"{self.name}: several images in a sample; pass image_column, one of {quoted(found)}"
                )
            if found:
                self.ending = found[0]
                self.label_column = self.label_column or (_CLASS if _CLASS in sample else None)
                return

    def _ids(self) -> list[str]:
        if len(set(self.keys)) == len(self.keys):
            return self.keys
        keys = [f"{readable_name(self.stems[tar])}/{key}" for tar, key in zip(self.tars, self.keys, strict=True)]
        if len(set(keys)) < len(keys):
            key, times = Counter(keys).most_common(1)[0]
            raise ClipAlignError(f"{self.name}: the sample {short(key)} occurs {times} times; names must be unique")
        return keys

    def _log(self, n_files: int) -> None:
        if self.problems:
            more = f" and {len(self.problems) - _SHOWN} more" if len(self.problems) > _SHOWN else ""
            shown = "; ".join(self.problems[:_SHOWN])
            logger.warning("%s: %d of %d tar files: %s%s", self.name, len(self.problems), n_files, shown, more)
        if self.failed:
            parts = ", ".join(f"{count:,} {reason}" for reason, count in self.failed.most_common())
            logger.warning("%s: %s images are not there: %s", self.name, f"{self.failed.total():,}", parts)


def _cell(tar: TarContent, key: str, column: str) -> Any:
    """What a sample says in a column: in a file of that ending, in its JSON, or in the table beside the tar."""
    sample = tar.samples.get(key, {})
    if column in sample and tar.holds(sample[column]):
        return tar.read(sample[column]).decode("utf-8", "replace").strip() or None
    if "json" in sample and tar.holds(sample["json"]):
        try:
            entries = limited_json(tar.read(sample["json"]))
        except BadJson as error:
            place = f"{printable(str(tar.path))}: {printable(key)}.json"
            raise ClipAlignError(f"{place} {error}; write the tar again") from None
        if isinstance(entries, dict) and column in entries:
            return entries[column]
    return tar.cell(key, column)


def _fingerprint(files: list[Path], chosen: list[str]) -> str:
    tables = [file.with_suffix(".parquet") for file in files]
    states = [f"{file.name} {file_state(str(file))}" for file in files]
    return digest(chosen, states, [file_state(str(table)) for table in tables])
