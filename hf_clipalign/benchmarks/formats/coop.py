"""The split files of CoOp, `split_zhou_*.json`."""

from __future__ import annotations

from hf_clipalign.benchmarks.formats.listing import Listed, Place, listed_images
from hf_clipalign.data import ImageSource
from hf_clipalign.data.splits.published import split_rows


def read_split_zhou(place: Place) -> dict[str, ImageSource]:
    """Lists "train", "val" and "test" of `[path, label, name]`, see `hf_clipalign.data.read_split`.

    Args:
        place (`Place`): with the file `split`.
    """
    path = place.file("split")
    parts, names = split_rows(path)
    rows = {part: [Listed(image, label) for image, label, _ in listed] for part, listed in parts.items()}
    return listed_images(rows, place, dict.fromkeys(rows, path), names)
