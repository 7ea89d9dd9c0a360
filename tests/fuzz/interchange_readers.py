"""Readers of what img2dataset and clip-retrieval wrote."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.data.images.webdatasets import write_shard
from tests.features.interchange.clip_retrieval_files import write_folder
from tests.fuzz import mutations as kinds
from tests.fuzz.readers import Reader, finite


def _tars(folder: Path) -> None:
    write_shard(folder, 0, 3, {1: "HTTP Error 404: Not Found"})
    write_shard(folder, 1, 2, table=False)


def _read_tars(folder: Path, file: Path) -> Any:
    from hf_clipalign import ClipAlignError
    from hf_clipalign.data import image_tars
    from tests.fuzz.trial import message_problem

    source, images = image_tars(folder, text_column="caption"), []
    for row in range(len(source)):
        try:
            images.append(source.read(row))
        except ClipAlignError as error:
            images.append(message_problem(str(error)))
    return images


def _no_bad_message(result: Any, sound: Any, folder: Path) -> str | None:
    return next((problem for problem in result if isinstance(problem, str)), None)


def _clip_retrieval(folder: Path) -> None:
    write_folder(folder, (3, 2))


def _read_clip_retrieval(folder: Path, file: Path) -> Any:
    from hf_clipalign.features import import_clip_retrieval

    with tempfile.TemporaryDirectory() as out:
        store = import_clip_retrieval(folder, out, label_column="kind")
        assert store.values().shape == (len(store.ids), store.width)
        return store.values()


INTERCHANGE_READERS = {
    "tars": Reader(
        _tars, _read_tars, {"*.tar": kinds.BYTES, "*.parquet": kinds.BYTES, "*.json": kinds.JSON}, _no_bad_message, 300
    ),
    "clip-retrieval": Reader(
        _clip_retrieval,
        _read_clip_retrieval,
        {"img_emb/*.npy": kinds.BYTES, "metadata/*.parquet": kinds.BYTES},
        finite,
        300,
    ),
}
