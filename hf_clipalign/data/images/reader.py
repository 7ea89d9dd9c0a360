"""One reader for every image: whatever comes in, an upright 8-bit RGB image on a plain ground comes out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps

from hf_clipalign._checks.quoting import printable, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.file_kinds import hint_for, register_heif

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | dict[str, Any] | np.ndarray"
"""What `read_image` takes: a path, encoded bytes, a PIL image, `{"bytes", "path"}` or a uint8 array."""

MAX_PIXELS = 178_956_970
"""Default size limit: the count at which PIL refuses a file as a decompression bomb."""

# A closed list, as PIL also knows formats that start other programs (EPS) or hold no image of their own.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "HEIF")
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_BAND_PIXELS = 2**20  # so many are converted at once, to hold few copies of a large image
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(
    source: ImageInput,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> Image.Image:
    """Reads one image as an upright RGB image.

    The EXIF rotation is applied; transparent parts (RGBA, LA, palettes, colour keys) are put on `background`; CMYK is
    converted; 16-bit and float images are scaled to 8 bits, never clipped; of an animation the first frame is taken.
    16-bit integers map 0..65535 to 0..255, floats in [0, 1] are multiplied by 255, floats in [0, 255] are kept, and
    any other range is stretched from its minimum to its maximum. Colour profiles are not applied. PIL's global pixel
    limit plays no part and no global state is changed, so threads and worker processes can call this freely.

    Args:
        source (`str`, `os.PathLike`, `bytes`, `PIL.Image.Image`, `dict` or `numpy.ndarray`):
            A path, the bytes of an encoded file, an open image (left as it is), the `{"bytes", "path"}` form of the
            datasets library, or a uint8 array `[H, W]` or `[H, W, C]` with C in 1 (grey), 2 (grey, alpha), 3 (RGB),
            4 (RGB, alpha).
        background (`tuple[int, int, int]`, *optional*, defaults to white):
            RGB colour, 0 to 255, behind transparent parts.
        max_pixels (`int`, *optional*, defaults to 178,956,970):
            largest width times height that is decoded. A JPEG file above it is decoded at 1/2, 1/4 or 1/8 of its size.
        name (`str`, *optional*):
            what to call the image in errors; by default its path.

    Returns:
        `PIL.Image.Image`: mode `"RGB"`, fully loaded, free of file handles and metadata.

    Raises:
        `ClipAlignError`: if the file is missing, unreadable, empty, truncated, no image, or above `max_pixels`.

    Example:
        ```python
        >>> from hf_clipalign.data import read_image
        >>> read_image("photos/cat/1.png").size
        (64, 48)
        ```
    """
    if isinstance(source, dict):
        return _read_dict(source, background=background, max_pixels=max_pixels, name=name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_stream(BytesIO(source), name or "image", background, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, name, background, max_pixels)
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source, name or "array"), name or "array", background, max_pixels)
    if isinstance(source, Image.Image):
        name = name or getattr(source, "filename", "") or "PIL image"
        return _finish(source, str(name), background, max_pixels)
    raise ClipAlignError(
        f"{name or 'image'}: cannot read a {type(source).__name__}; "
        "pass a path, bytes, a PIL image, a {'bytes', 'path'} dict or a uint8 array"
    )


def _read_dict(source: dict[str, Any], *, name: str | None, **options: Any) -> Image.Image:
    if source.get("bytes") is not None:
        return read_image(source["bytes"], name=name or source.get("path"), **options)
    if source.get("path"):
        return read_image(source["path"], name=name, **options)
    raise ClipAlignError(f"{name or 'image'}: neither 'bytes' nor 'path' is set; the image is missing")


def _read_path(
    path: str | os.PathLike[str], name: str | None, background: tuple[int, int, int], max_pixels: int
) -> Image.Image:
    title = printable(str(path) if name in (None, str(path)) else f"{name} ({path})")
    try:
        if stat.S_ISDIR(mode := os.stat(path).st_mode):
            raise ClipAlignError(f"{title}: is a folder, not an image; open folders with image_folder")
        if not stat.S_ISREG(mode):
            raise ClipAlignError(f"{title}: is not a regular file")
        with open(path, "rb") as stream:
            return _read_stream(stream, title, background, max_pixels)
    except FileNotFoundError:
        raise ClipAlignError(f"{title}: no such file; check the path") from None
    except PermissionError:
        raise ClipAlignError(f"{title}: no permission to read it; change the file's access rights") from None
    except ClipAlignError:
        raise
    except (OSError, ValueError) as error:
        raise ClipAlignError(f"{title}: cannot be opened ({error})") from error


def _read_stream(stream: BinaryIO, name: str, background: tuple[int, int, int], max_pixels: int) -> Image.Image:
    image = _open(stream, name)
    if image.width * image.height > max_pixels:
        _shrink_jpeg(image, max_pixels)
    return _finish(image, name, background, max_pixels)


def _open(stream: BinaryIO, name: str) -> Image.Image:
    """Opens with the plugins themselves: `Image.open` warns or raises by a global pixel limit."""
    Image.init()
    register_heif()
    prefix = stream.read(16)
    if not prefix:
        raise ClipAlignError(f"{name}: the file is empty (0 bytes); fetch or export it again")
    failure: Exception | None = None
    for factory, accept in (Image.OPEN[key] for key in _FORMATS if key in Image.OPEN):
        try:
            if accept is None or accept(prefix) is True:
                stream.seek(0)
                return cast(Image.Image, factory(stream, ""))
        except Exception as error:
            failure = error
    if hint := hint_for(prefix, Image.OPEN):
        raise ClipAlignError(f"{name}: {hint}") from failure
    if failure is not None:
        raise ClipAlignError(f"{name}: the image is damaged or truncated ({short_reason(failure)})") from failure
    raise ClipAlignError(f"{name}: is not an image in a known format ({', '.join(_FORMATS)})")


def _shrink_jpeg(image: Image.Image, max_pixels: int) -> None:
    """Asks the JPEG decoder for the mildest reduction that fits; other formats have none and stay as they are."""
    width, height = image.size
    for factor in (2, 4, 8):
        if -(-width // factor) * -(-height // factor) <= max_pixels or factor == 8:
            cast(ImageFile.ImageFile, image).draft(None, (max(1, width // factor), max(1, height // factor)))  # type: ignore[arg-type]
            return


def _finish(image: Image.Image, name: str, background: tuple[int, int, int], max_pixels: int) -> Image.Image:
    _check_pixels(image, name, max_pixels)
    try:
        image.load()
        _check_pixels(image, name, max_pixels)  # some formats say only now how large the image is
        return _to_rgb(_upright(image), background)
    except ClipAlignError:
        raise
    except MemoryError as error:
        raise ClipAlignError(
            f"{name}: not enough memory for {image.width} x {image.height} pixels; make the image smaller"
        ) from error
    except Exception as error:
        raise ClipAlignError(f"{name}: the image is damaged or truncated ({short_reason(error)})") from error


def _check_pixels(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        megapixels = image.width * image.height / 1e6
        raise ClipAlignError(
            f"{name}: {megapixels:.1f} megapixels ({image.width} x {image.height}) are over max_pixels={max_pixels:,}"
            "; make the image smaller, save it as JPEG, or raise max_pixels"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    except Exception:  # unreadable EXIF says nothing about the pixels
        return image


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode in _DEEP_MODES:
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgb = Image.new("RGB", image.size, background)
        for top, bottom in _bands(image.height, image.width):
            rgba = image.crop((0, top, image.width, bottom)).convert("RGBA")
            rgb.paste(rgba, (0, top), mask=rgba.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that together are an image."""
    rows = max(1, _BAND_PIXELS // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = Image.fromarray(_scale(values))
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _scale(values: np.ndarray) -> np.ndarray:
    """Maps grey levels `[H, W]` of any depth to uint8; NaN and infinities count as the smallest finite value."""
    result = np.zeros(values.shape, np.uint8)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        for top, bottom in _bands(*values.shape):
            result[top:bottom] = (values[top:bottom].astype(np.uint32) + 128) // 257
        return result
    finite = values[np.isfinite(values)]
    if not len(finite):
        return result
    low, high = float(finite.min()), float(finite.max())
    tops = (1.0, 255.0) if values.dtype.kind == "f" else (65535.0,)
    start, end = next(((0.0, top) for top in tops if low >= 0 and high <= top), (low, high))
    for top, bottom in _bands(*values.shape):
        band = values[top:bottom].astype(np.float64)
        levels = (np.where(np.isfinite(band), band, low) - start) * (255.0 / ((end - start) or 1.0))
        result[top:bottom] = np.rint(levels)
    return result


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise ClipAlignError(f"{name}: arrays must be uint8 (0 to 255), not {array.dtype}; scale and convert it first")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)) or array.size == 0:
        raise ClipAlignError(
            f"{name}: shape {array.shape} is no image; pass [H, W] or [H, W, C] with C = 1, 2, 3 or 4 last"
        )
    return Image.fromarray(np.ascontiguousarray(array))
