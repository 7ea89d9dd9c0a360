"""Every kind of store, small: how it is made, where its shards are, how it is read."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_clipalign.data import FindingLabels, ImageStream, StreamRecord
from hf_clipalign.data.images.source import ImageSource
from hf_clipalign.features import (
    EmbeddingStore,
    FeatureStore,
    LabelledEmbeddings,
    extract_to_store,
    import_clip_retrieval,
    text_embeddings,
)
from hf_clipalign.inversion import invert_to_store, read_inversions
from hf_clipalign.trainers import Teacher, teacher_concepts
from tests.features.cheap_encoder import CheapEncoder, cheap_processor
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_tokenizer

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 40, 40, 3), dtype=np.uint8)


@dataclass(frozen=True)
class StoreKind:
    """One kind of store.

    Args:
        make (`Callable[[Path, int], Tensor]`): fills a folder, or uses what is there, and gives the content; the
            number says of which run.
        read (`Callable[[Path, int], Tensor]`): the content, without making anything.
        remade (`bool`): whether `make` mends damage.
    """

    make: Callable[[Path, int], Tensor]
    read: Callable[[Path, int], Tensor]
    remade: bool = True


@functools.cache
def encoder() -> CheapEncoder:
    return CheapEncoder(8)


def make_features(folder: Path, run: int) -> Tensor:
    def records(first: int) -> Any:
        return (StreamRecord(f"ü{row}", PIXELS[row] + np.uint8(run), row % 2) for row in range(first, 9))

    stream = ImageStream(records, fingerprint=lambda: f"run {run}", name="images")
    options: dict[str, Any] = {"shard_size": 4, "batch_size": 2, "num_workers": 0, "progress": False}
    return extract_to_store(encoder(), stream, cheap_processor, folder, **options).values()


def read_features(folder: Path, run: int) -> Tensor:
    store = FeatureStore.open(folder)
    store.verify()
    return store.values()


def make_texts(folder: Path, run: int) -> Tensor:
    texts = [f"a photo of {run} cats", "a dog"]
    return text_embeddings(tiny_clip(), tiny_tokenizer(), texts, folder / "texts.safetensors")


def make_inversions(folder: Path, run: int) -> Tensor:
    embeds = torch.randn(5, 24, generator=torch.Generator().manual_seed(run))
    options: dict[str, Any] = {"n_tokens": 1, "steps": 1, "progress": False, "shard_size": 2}
    invert_to_store(folder, "ovi", tiny_clip(), embeds, **options)
    return read_inversions(folder)[1].tokens


def make_teacher(folder: Path, run: int) -> Tensor:
    return Teacher(tiny_clip(), tiny_tokenizer(), folder).text_features([f"{run} cats", "a dog"])


@functools.cache
def processor() -> Any:
    image, text = tiny_image_processor(), tiny_tokenizer()

    class Both:
        tokenizer, image_processor = text, image

        def __call__(self, **kwargs: Any) -> Any:
            return text(**kwargs)

    return Both()


def concepts(folder: Path, run: int, teacher: Teacher | None) -> Tensor:
    source = ImageSource(list(PIXELS[:3]), ids=list("abc"), fingerprint=lambda: "images")
    names, cache = [f"{run} cats", "dog"], folder / "teacher.safetensors"
    found = teacher_concepts(teacher, source, names, "a {}", cache=cache, num_workers=0, progress=False)
    return torch.cat([found.images, found.texts])


def make_concepts(folder: Path, run: int) -> Tensor:
    return concepts(folder, run, Teacher(tiny_clip(), processor()))


def read_concepts(folder: Path, run: int) -> Tensor:
    return concepts(folder, run, None)


def labels(run: int) -> FindingLabels:
    return FindingLabels([f"{run}/{row}.png" for row in range(4)], ["A"], np.zeros((4, 1)), name="train.csv")


def make_embeddings(folder: Path, run: int) -> Tensor:
    embeds = torch.randn(4, 8, generator=torch.Generator().manual_seed(run))
    if not (folder / "embeddings.safetensors").exists():
        LabelledEmbeddings(embeds, labels(run), f"model {run}").save(folder / "embeddings.safetensors")
    return read_embeddings(folder, run)


def read_embeddings(folder: Path, run: int) -> Tensor:
    return LabelledEmbeddings.from_file(folder / "embeddings.safetensors", labels(run)).embeds


def make_projected(folder: Path, run: int) -> Tensor:
    values = np.random.default_rng(run).normal(size=(5, 6)).astype(np.float16)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / f"run {run}"
        (source / "img_emb").mkdir(parents=True)
        for number, part in enumerate((values[:2], values[2:])):
            file = source / "img_emb" / f"img_emb_{number}.npy"
            np.save(file, part)
            os.utime(file, (run, run))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(name)
            return import_clip_retrieval(f"run {run}", folder).values()


def read_projected(folder: Path, run: int) -> Tensor:
    store = EmbeddingStore.open(folder)
    store.verify()
    return store.values()


def read_inverted(folder: Path, run: int) -> Tensor:
    return read_inversions(folder)[1].tokens


KINDS: dict[str, StoreKind] = {
    "features": StoreKind(make_features, read_features),
    "text cache": StoreKind(make_texts, make_texts),
    "inversions": StoreKind(make_inversions, read_inverted),
    "teacher of KDPL": StoreKind(make_teacher, make_teacher),
    "teacher of GCD": StoreKind(make_concepts, read_concepts),
    "embeddings": StoreKind(make_projected, read_projected),
    "labelled embeddings": StoreKind(make_embeddings, read_embeddings, remade=False),
}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.endswith(".lock")}
