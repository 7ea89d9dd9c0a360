"""A small collection in memory that answers like an index."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hf_clipalign.search import as_rows

COLOURS = {"red": (2, -1, -1), "green": (-1, 2, -1), "blue": (-1, -1, 2)}


@dataclass(eq=False)
class Files:
    root: str
    names: list[str]
    sizes: np.ndarray
    modified: np.ndarray
    images: np.ndarray

    def path(self, i):
        return os.path.join(self.root, self.names[i])

    def find(self, path):
        name = os.path.relpath(path, self.root) if os.path.isabs(path) else path
        return self.names.index(name) if name in self.names else None

    def of_image(self, row):
        return np.flatnonzero(self.images == row)


@dataclass(eq=False)
class Collection:
    """Features are the mean colour of an image (and a constant), texts are names of colours."""

    files: Files
    values: np.ndarray
    heads: list = field(default_factory=lambda: ["raw", "aligned"])
    generation: int = 1
    calibrations: dict = field(default_factory=dict)
    encoded: list = field(default_factory=list)
    path: Path = Path("no-index")
    description: dict = field(default_factory=dict)

    def features(self):
        return as_rows(self.values)

    def projector(self, head, modality):
        return np.eye(4 if head == "raw" else 3, 4, dtype=np.float32)

    def embeddings(self, head="raw", modality="image"):
        values = self.values @ self.projector(head, modality).T
        return as_rows(values / np.linalg.norm(values, axis=1, keepdims=True))

    def encode_texts(self, texts):
        self.encoded += list(texts)
        vectors = np.array([[*COLOURS[text], 0.0] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_images(self, images):
        self.encoded += ["image"] * len(images)
        return np.stack([feature(np.asarray(image)) for image in images])

    def calibration(self, head):
        return self.calibrations.get(head)


def feature(pixels):
    return np.append(pixels.reshape(-1, 3).mean(0) / 127.5 - 1, 1.0).astype(np.float32)
