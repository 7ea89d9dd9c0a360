"""Images that a user gives as a query: limited in bytes and pixels, kept as features, never written to the disk."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.data_address import data_address
from hf_clipalign.data.images.thumbnails import jpeg_thumbnail

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
_MOST_UPLOADS = 256
_DECODED_AT_ONCE = 2
"""An image of the most pixels takes some hundreds of megabytes while it is decoded."""
_PREVIEW = 200
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Upload:
    """An image that was given as a query.

    Attributes:
        name (`str`): what the user called it.
        features (`np.ndarray [w]`): before the projector.
        preview (`str`): a small JPEG as a data address.
    """

    name: str
    features: NDArray[np.float32]
    preview: str


class Uploads:
    """The last images that users gave, each under a name that cannot be guessed.

    Args:
        encode (`Callable`): gives the features `[w]` of an encoded image.
        most (`int`, *optional*, defaults to `256`): so many are kept.
    """

    def __init__(self, encode: Callable[[bytes, str], NDArray[np.float32]], most: int = _MOST_UPLOADS) -> None:
        self._encode, self._most = encode, most
        self._known: OrderedDict[str, Upload] = OrderedDict()
        self._lock, self._decoders = threading.Lock(), threading.Semaphore(_DECODED_AT_ONCE)

    def add(self, data: bytes, name: str) -> tuple[str, Upload]:
        """Reads an image, and gives the token to ask with.

        Args:
            data (`bytes`): an encoded image.
            name (`str`): of the file.

        Raises:
            `ClipAlignError`: too many bytes or pixels, or no image.
        """
        name = printable(name.replace("\\", "/").rpartition("/")[2].strip() or "image")[:_LONGEST_NAME]
        if len(data) > MAX_BYTES:
            raise ClipAlignError(too_large(name))
        with self._decoders:
            preview = data_address(jpeg_thumbnail(data, _PREVIEW, name=name, max_pixels=MAX_PIXELS), "image/jpeg")
            upload = Upload(name, self._encode(data, name), preview)
        token = secrets.token_urlsafe(18)
        with self._lock:
            self._known[token] = upload
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return token, upload

    def get(self, token: str) -> Upload:
        """What was given under a token.

        Raises:
            `ClipAlignError`: nothing, or it is too long ago.
        """
        with self._lock:
            if token not in self._known:
                raise ClipAlignError("the image of this query is no longer kept: give it again.")
            self._known.move_to_end(token)
            return self._known[token]


def too_large(name: str) -> str:
    """What to say about a file with too many bytes."""
    return f"{name}: more than {MAX_BYTES // 2**20} MB; make the image smaller, or save it as JPEG."
