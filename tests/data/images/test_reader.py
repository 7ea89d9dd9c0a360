import contextlib
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import read_image

WHITE = (255, 255, 255)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png16(values: np.ndarray, colour_type: int = 2) -> bytes:
    """A 16-bit PNG `[H, W, C]`, written by hand since PIL writes 8-bit colour only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def image() -> Image.Image:
    x = np.arange(12, dtype=np.uint8)
    return Image.fromarray(
        np.stack(np.broadcast_arrays(20 * x[None, :], 25 * x[:9, None], 100), axis=-1).astype(np.uint8)
    )


def same(image: Image.Image, expected, tolerance: int = 0) -> bool:
    assert image.mode == "RGB"
    return int(np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max()) <= tolerance


def test_every_kind_of_source_gives_the_same_image(image, tmp_path):
    path = tmp_path / "a.png"
    image.save(path)
    data = path.read_bytes()
    sources = [
        path,
        str(path),
        data,
        bytearray(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ]
    for source in [*sources, image, np.asarray(image), Image.open(path)]:
        assert same(read_image(source), image)


def test_result_is_a_plain_image_and_the_input_is_left_alone(image, tmp_path):
    image.save(tmp_path / "a.jpg", exif=Image.Exif(), icc_profile=b"x" * 200)
    result = read_image(tmp_path / "a.jpg")
    assert type(result) is Image.Image
    assert result.info == {}
    assert pickle.loads(pickle.dumps(result)).size == (12, 9)
    rgba = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    read_image(rgba)
    assert rgba.mode == "RGBA"
    read_image(image).putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (0, 0, 100)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_formats(image, kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    source = image.quantize(200) if kind == "GIF" else image
    assert same(read_image(encode(source, kind, **options)), source.convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_exif_rotation(kind, orientation):
    upright = Image.new("RGB", (32, 16), (255, 0, 0))
    upright.paste((0, 0, 255), (0, 0, 16, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    result = read_image(encode(stored, kind, exif=exif, **options))
    assert result.size == (32, 16)
    assert same(result, upright, tolerance=30 if kind == "JPEG" else 0)


def test_broken_exif_does_not_matter(image):
    data = encode(image, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert read_image(data).size == image.size


def test_transparency_is_put_on_the_background():
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    half.putpixel((1, 0), (200, 10, 30, 0))
    assert same(read_image(encode(half, "PNG")), [[(127, 127, 127), WHITE]], tolerance=1)
    assert same(read_image(half, background=(255, 0, 0)), [[(127, 0, 0), (255, 0, 0)]], tolerance=1)
    assert same(read_image(encode(half.convert("LA"), "PNG")), [[(127, 127, 127), WHITE]], tolerance=1)
    assert same(read_image(half.convert("RGBa")), [[(127, 127, 127), WHITE]], tolerance=1)


def test_palette_transparency():
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        palette.putpixel((x, 0), x)
    green_only = [[(255, 0, 0), WHITE, (0, 0, 255)]]
    assert same(read_image(encode(palette, "PNG", transparency=1)), green_only)
    assert same(read_image(encode(palette, "GIF", transparency=1)), green_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graded = read_image(encode(palette, "PNG", transparency=bytes([255, 0, 128])))
    assert same(graded, [[(255, 0, 0), WHITE, (127, 127, 255)]], tolerance=1)
    assert same(read_image(encode(palette, "PNG")), [[(255, 0, 0), (0, 255, 0), (0, 0, 255)]])


def test_colour_key_transparency(image):
    key = image.getpixel((3, 4))
    result = read_image(encode(image, "PNG", transparency=key))
    assert result.getpixel((3, 4)) == WHITE
    assert result.getpixel((4, 4)) == image.getpixel((4, 4))
    grey = Image.fromarray(np.array([[0, 7]], dtype=np.uint8))
    assert same(read_image(encode(grey, "PNG", transparency=0)), [[WHITE, (7, 7, 7)]])


def test_cmyk_and_the_inverted_cmyk_of_adobe(image):
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    data = encode(flat.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data  # PIL writes, and reads, the inverted form
    assert same(read_image(data), flat, tolerance=6)
    assert same(read_image(encode(flat.convert("CMYK"), "TIFF")), flat, tolerance=1)


@pytest.mark.parametrize("mode", ["I;16", "I", "I;16B"])
def test_16_bit_grey_is_scaled_not_clipped(mode):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    image = Image.fromarray(values)
    image = image.convert("I") if mode == "I" else image
    kind = "PNG" if mode == "I;16" else "TIFF"
    data = encode(image, kind)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
        data = encode(image, "TIFF")
    expected = np.array([[0, 1, 128, 255]], dtype=np.uint8)
    for source in (data, image):
        assert same(read_image(source), np.repeat(expected[..., None], 3, axis=-1), tolerance=1)


def test_16_bit_colour_png():
    values = np.array([[(0, 32768, 65535), (65535, 257, 0)]], dtype=np.uint16)
    assert same(read_image(png16(values)), [[(0, 128, 255), (255, 1, 0)]], tolerance=1)
    rgba = np.array([[(0, 0, 0, 0), (65535, 0, 0, 65535)]], dtype=np.uint16)
    assert same(read_image(png16(rgba, colour_type=6)), [[WHITE, (255, 0, 0)]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
        ([0.0, np.inf, 1000.0], [0, 0, 255]),
    ],
)
def test_float_images(values, expected):
    image = Image.fromarray(np.array([values], dtype=np.float32))
    for source in (image, encode(image, "TIFF")):
        assert np.asarray(read_image(source))[0, :, 0].tolist() == expected


def test_signed_integers_are_stretched():
    image = Image.fromarray(np.array([[-1000, 0, 3000]], dtype=np.int32))
    assert np.asarray(read_image(image))[0, :, 0].tolist() == [0, 64, 255]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_any_float_image_keeps_its_order(values):
    array = np.array([values], dtype=np.float32)
    grey = np.asarray(read_image(Image.fromarray(array)))[0, :, 0]
    finite = np.isfinite(array[0])
    order = np.argsort(array[0][finite], kind="stable")
    assert (np.diff(grey[finite][order].astype(int)) >= 0).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_the_first_frame(kind):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert same(read_image(data), frames[0])


def test_other_formats_and_multi_image_jpegs(image):
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    assert same(read_image(encode(flat, "MPO", save_all=True, append_images=[image])), flat, tolerance=3)
    for kind in ("AVIF", "JPEG2000"):
        if kind in Image.SAVE:
            assert same(read_image(encode(flat, kind)), flat, tolerance=4)


def test_threads_agree(image):
    sources = [encode(image, "PNG"), encode(image.convert("P"), "GIF"), b"junk"] * 20

    def read(source):
        try:
            return read_image(source, max_pixels=200).tobytes()
        except ClipAlignError:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, sources)) == [read(source) for source in sources[:3]] * 20


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "I;16", "I", "F"])
def test_one_pixel_of_every_mode(mode):
    result = read_image(Image.new(mode, (1, 1)))
    assert result.mode == "RGB"
    assert result.size == (1, 1)


def test_one_bit_and_grey():
    assert same(read_image(encode(Image.new("1", (3, 2), 1), "PNG")), np.full((2, 3, 3), 255))
    assert same(read_image(encode(Image.new("L", (3, 2), 77), "JPEG")), np.full((2, 3, 3), 77), tolerance=1)


def test_arrays():
    assert same(read_image(np.full((2, 3), 9, np.uint8)), np.full((2, 3, 3), 9))
    assert same(read_image(np.full((2, 3, 1), 9, np.uint8)), np.full((2, 3, 3), 9))
    assert same(read_image(np.zeros((2, 3, 4), np.uint8)), np.full((2, 3, 3), 255))
    assert same(read_image(np.zeros((2, 3, 2), np.uint8)), np.full((2, 3, 3), 255))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 2, 3), np.uint8),
        np.uint8(3).reshape(()),
    ],
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(ClipAlignError, match="upload 7"):
        read_image(array, name="upload 7")


def test_a_200_megapixel_png_is_refused_by_name_and_without_warnings(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20000, 10000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ClipAlignError, match=r"huge\.png: 200\.0 megapixels .*max_pixels=178,956,970"):
            read_image(path)


def test_between_the_two_limits_of_pil_nothing_is_said(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (10000, 9500), 1).save(path)
    limit = Image.MAX_IMAGE_PIXELS
    assert limit < 95_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).size == (10000, 9500)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_200_megapixel_jpeg_is_read_at_half_size(tmp_path):
    path = tmp_path / "huge.jpg"
    Image.new("L", (20000, 10000), 200).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).size == (10000, 5000)


@pytest.mark.parametrize(
    ("limit", "size"), [(64 * 48, (64, 48)), (64 * 48 - 1, (32, 24)), (200, (16, 12)), (48, (8, 6))]
)
def test_jpegs_are_shrunk_as_little_as_possible(limit, size):
    data = encode(Image.new("RGB", (64, 48)), "JPEG")
    assert read_image(data, max_pixels=limit).size == size


def test_jpeg_that_does_not_fit_even_at_an_eighth():
    with pytest.raises(ClipAlignError, match="over max_pixels=47"):
        read_image(encode(Image.new("RGB", (64, 48)), "JPEG"), max_pixels=47)


def test_max_pixels_can_be_raised(image):
    data = encode(image, "PNG")
    with pytest.raises(ClipAlignError, match="raise max_pixels"):
        read_image(data, max_pixels=107)
    assert read_image(data, max_pixels=108).size == (12, 9)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
def test_truncated_files(kind, part, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ClipAlignError, match=r"cut\..*damaged or truncated"):
        read_image(path)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]), st.data())
def test_damaged_files_raise_nothing_else(kind, data):
    good = bytearray(encode(Image.new("RGB", (5, 4), (9, 99, 199)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ClipAlignError):
            assert read_image(bytes(good), max_pixels=10**6).mode == "RGB"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"P", "not an image|damaged"),
        (b"hello, this is text", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
    ],
)
def test_files_that_are_no_images(content, message, tmp_path):
    (tmp_path / "odd.jpg").write_bytes(content)
    with pytest.raises(ClipAlignError, match=f"odd.jpg.*({message})"):
        read_image(tmp_path / "odd.jpg")
    with pytest.raises(ClipAlignError, match=f"odd.jpg.*({message})"):
        read_image(content, name="odd.jpg")


def test_paths_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(ClipAlignError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ClipAlignError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ClipAlignError, match=r"row 3 \(.*gone\.png\): no such file"):
        read_image(tmp_path / "gone.png", name="row 3")
    with pytest.raises(ClipAlignError, match="cannot be opened"):
        read_image("a\0b.png")
    with pytest.raises(ClipAlignError, match="cannot be opened"):
        read_image("x" * 5000)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ClipAlignError, match="not a regular file"):
        read_image(tmp_path / "pipe")
    (tmp_path / "locked.png").write_bytes(b"x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ClipAlignError, match=r"locked\.png: no permission"):
        read_image(tmp_path / "locked.png")


@pytest.mark.parametrize("source", [3, None, ["a.png"], {"bytes": None, "path": None}, {}])
def test_things_that_are_no_source(source):
    with pytest.raises(ClipAlignError):
        read_image(source)


def test_errors_are_one_line(tmp_path):
    path = Path(tmp_path / "bad.png")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with pytest.raises(ClipAlignError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
