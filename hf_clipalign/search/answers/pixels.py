"""Whether two files show the same image, or images that are merely alike: compared in pixels, not in features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError

_HASH_SIDE = 16
_MOST_BITS = 0.16
"""Of the 256 bits of the hash. Photographs that were resized, compressed again or trimmed by 2 % differ in less than
this share, different ones in 40 % and more."""
_COLOUR_SIDE = 16
_MOST_COLOUR = 25.0
"""Mean difference of the colours, of 255: the hash does not see colour."""
_MOST_LOCAL = 64.0
"""Largest difference in a cell of 16 x 16, of 255, beside the mean one: the hash does not see small parts. It is up to
61 for a photograph at a sixth of its size, and more than that for most drawings that differ in a detail."""
_WORK_SIDE = 512


class Fingerprint(NamedTuple):
    """What is compared of an image.

    Attributes:
        bits (`np.ndarray [256]`): its perceptual hash.
        colours (`np.ndarray [16, 16, 3]`): the image at that size.
        size (`tuple[int, int]`): width and height of the file's image.
    """

    bits: NDArray[np.bool_]
    colours: NDArray[np.float32]
    size: tuple[int, int]


def is_installed() -> bool:
    """Whether the library of perceptual hashes (extra `search`) is there; looked up without importing it."""
    return find_spec("imagehash") is not None


def fingerprints(paths: Iterable[str], progress: bool = False) -> dict[str, Fingerprint]:
    """The fingerprints of files by path; those that cannot be read are left out."""
    from tqdm.auto import tqdm

    found = {}
    for path in tqdm(dict.fromkeys(paths), desc="pixels", unit="image", disable=None if progress else True):
        try:
            found[path] = fingerprint(path)
        except ClipAlignError:
            continue
    return found


def fingerprint(path: str) -> Fingerprint:
    """The fingerprint of a file.

    Raises:
        `ClipAlignError`: it cannot be read.
    """
    import imagehash
    from PIL import Image

    from hf_clipalign.data.images.reader import read_image

    image = read_image(path)
    size = image.size
    image.thumbnail((_WORK_SIDE, _WORK_SIDE))
    colours = image.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX)
    bits = imagehash.phash(image, hash_size=_HASH_SIDE).hash.ravel()
    return Fingerprint(bits, np.asarray(colours, np.float32), size)


def is_same_image(one: str, other: str, known: Mapping[str, Fingerprint]) -> bool:
    """Whether two files show the same image; False where one has no fingerprint."""
    if one not in known or other not in known:
        return False
    first, second = known[one], known[other]
    bits = float((first.bits != second.bits).mean())
    colours = first.colours - second.colours
    local = np.abs(colours - colours.mean((0, 1))).mean(2).max()
    return bits <= _MOST_BITS and float(np.abs(colours).mean()) <= _MOST_COLOUR and float(local) <= _MOST_LOCAL
