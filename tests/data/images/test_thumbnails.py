"""Thumbnails as JPEG files."""

import io

import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data.images import thumbnails as module
from hf_clipalign.data.images.thumbnails import jpeg_thumbnail


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def test_a_path_and_bytes_give_the_same_small_jpeg(tmp_path):
    Image.effect_noise((300, 200), 60).save(tmp_path / "a.png")
    data = jpeg_thumbnail(tmp_path / "a.png", 64)
    assert data == jpeg_thumbnail((tmp_path / "a.png").read_bytes(), 64)
    assert (opened(data).format, opened(data).size, opened(data).mode) == ("JPEG", (64, 43), "RGB")
    assert opened(jpeg_thumbnail(tmp_path / "a.png", 4000)).size == (300, 200), "nothing is enlarged"


def test_it_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 50), "red").save(tmp_path / "a.jpg", exif=exif)
    assert opened(jpeg_thumbnail(tmp_path / "a.jpg", 64)).size == (32, 64)


def test_a_large_jpeg_is_decoded_at_a_reduced_size(tmp_path, monkeypatch):
    seen, read = [], module.read_image

    def watched(source, **options):
        image = read(source, **options)
        seen.append(image.size)
        return image

    monkeypatch.setattr(module, "read_image", watched)
    for kind in ("jpg", "png"):
        Image.linear_gradient("L").resize((2400, 1600)).save(tmp_path / f"a.{kind}")
        assert opened(jpeg_thumbnail(tmp_path / f"a.{kind}", 240)).size == (240, 160)
    assert seen == [(1200, 800), (2400, 1600)]


def test_an_image_over_the_limit_and_a_damaged_one_are_one_line(tmp_path):
    Image.new("L", (300, 200)).save(tmp_path / "a.png")
    with pytest.raises(ClipAlignError, match="max_pixels=50,000"):
        jpeg_thumbnail(tmp_path / "a.png", 64, max_pixels=50_000)
    with pytest.raises(ClipAlignError, match=r"given\.png: .*damaged") as error:
        jpeg_thumbnail((tmp_path / "a.png").read_bytes()[:60], 64, name="given.png")
    assert "\n" not in str(error.value)
