"""Images as small JPEG files, for pages."""

from __future__ import annotations

import os
from io import BytesIO

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.reader import MAX_PIXELS, read_image

_EASY_PIXELS = 3_000_000
"""JPEGs above this size are decoded at half of it or less, which is enough for a thumbnail."""
_QUALITY = 82


def jpeg_thumbnail(
    source: str | os.PathLike[str] | bytes, side: int, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> bytes:
    """An image as a small JPEG file.

    Args:
        source (`str`, `os.PathLike` or `bytes`): a path or an encoded image.
        side (`int`): longest side in pixels; a smaller image keeps its size.
        name (`str`, *optional*): what errors call it. Defaults to its path.
        max_pixels (`int`, *optional*, defaults to 178,956,970): as in `read_image`.

    Returns:
        `bytes`: a JPEG file.

    Raises:
        `ClipAlignError`: it cannot be read.
    """
    try:
        image = read_image(source, max_pixels=min(_EASY_PIXELS, max_pixels), name=name)
    except ClipAlignError:
        image = read_image(source, max_pixels=max_pixels, name=name)
    image.thumbnail((side, side))
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()
