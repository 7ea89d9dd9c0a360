"""Embeds a folder on a Ray cluster, as a driver that tests start and kill: drive.py IMAGES OUT NOTES ADDRESS."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from hf_clipalign.data import image_folder
from hf_clipalign.features import FeatureStore, extract_with_ray
from tests.ray.towers import NotingEncoder, SlowProcessor

SIZES = {"shard_size": 6, "batch_size": 4}
SECONDS = 0.02  # of two towers, so that the one reader takes half of it


def embed(images: Path, out: Path, notes: Path, address: str | None) -> FeatureStore:
    encoder, processor = NotingEncoder(str(notes), SECONDS), SlowProcessor(SECONDS / 2)
    return extract_with_ray(
        encoder, image_folder(images), processor, out, num_workers=2, address=address, progress=False, **SIZES
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    embed(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
