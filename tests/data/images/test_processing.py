"""Images through processors in bounded memory: the pixels that the processor alone makes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import read_image
from hf_clipalign.data.images import processing, reader
from hf_clipalign.data.images.processing import process_images, reduce_image


def with_pil(family, name):
    """A family's image processor that works with PIL; the first 5.x releases have it under the plain name."""
    models = f"transformers.models.{family}"
    try:
        return getattr(import_module(f"{models}.image_processing_pil_{family}"), f"{name}ImageProcessorPil")
    except ModuleNotFoundError:
        return getattr(import_module(f"{models}.image_processing_{family}"), f"{name}ImageProcessor")


CLIPImageProcessorPil, SiglipImageProcessorPil = with_pil("clip", "CLIP"), with_pil("siglip", "Siglip")

PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "crop smaller": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 33, "width": 28}),
    "crop larger": CLIPImageProcessorPil(
        size={"shortest_edge": 20}, crop_size={"height": 33, "width": 28}, resample=2
    ),
    "no crop": CLIPImageProcessorPil(size={"height": 24, "width": 40}, do_center_crop=False),
    "siglip": SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=2),
    "nearest": SiglipImageProcessorPil(size={"height": 9, "width": 9}, resample=0),
}
SIZES = [(1, 1), (1, 90), (90, 1), (31, 32), (32, 32), (33, 47), (64, 48), (150, 101), (101, 150), (400, 7), (7, 400)]
MODES = ["RGB", "RGBA", "L", "1", "P", "CMYK", "I;16", "F"]
processors = pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)


def picture(size, mode="RGB", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    return image.convert("L").convert(mode) if mode in ("I;16", "F") else image.convert(mode)


def alone(processor, images):
    arrays = [np.asarray(image) for image in images]
    return processor(images=arrays, input_data_format="channels_last", return_tensors="pt")["pixel_values"]


@processors
@pytest.mark.parametrize("mode", MODES)
def test_large_images_give_the_pixels_of_the_processor_alone(processor, mode, monkeypatch) -> None:
    monkeypatch.setattr(processing, "_LARGE_PIXELS", 10)
    images = [read_image(picture(size, mode, seed)) for seed, size in enumerate(SIZES)]
    reduced = [reduce_image(image, processor) for image in images]
    assert any(part is not image for part, image in zip(reduced, images, strict=True))
    assert torch.equal(process_images(processor, images)["pixel_values"], alone(processor, images))


@processors
def test_batches_are_processed_in_parts_of_the_budget(processor, monkeypatch) -> None:
    monkeypatch.setattr(processing, "_BLOCK_BYTES", 3 * 90 * 4)
    images = [picture(size, seed=seed) for seed, size in enumerate(SIZES)]
    most = 0

    def counted(image_processor=processor):
        def call(images, **options):
            nonlocal most
            most = max(most, len(images))
            assert len(images) == 1 or sum(image.nbytes for image in images) <= 3 * 90 * 4
            return image_processor(images=images, **options)

        return call

    assert torch.equal(process_images(counted(), images)["pixel_values"], alone(processor, images))
    assert most > 1


def test_no_images_give_nothing() -> None:
    assert process_images(PROCESSORS["clip"], []) is None


def test_small_images_are_left_alone() -> None:
    image = picture((300, 200))
    assert reduce_image(image, PROCESSORS["clip"]) is image
    assert reduce_image(image, lambda images: images) is image


@pytest.mark.parametrize("size", [(9000, 20), (20, 9000), (3001, 7), (7, 3001), (2, 801), (24001, 64)])
@pytest.mark.parametrize("crop", [(224, 224), (200, 217), (230, 301)])
def test_of_very_long_images_the_middle_is_made(size, crop) -> None:
    """One grey level of 255 is 0.0145 to 0.0153 after normalisation."""
    processor, image = CLIPImageProcessorPil(crop_size={"height": crop[0], "width": crop[1]}), picture(size)
    assert max(reduce_image(image, processor).size) <= 302
    made, whole = process_images(processor, [image])["pixel_values"], alone(processor, [image])
    assert (made - whole).abs().max() < 0.016
    assert (made != whole).float().mean() < 0.001


def test_a_line_of_20000_pixels_costs_nothing() -> None:
    processor = CLIPImageProcessorPil()
    for size in ((20000, 1), (1, 20000)):
        image = Image.new("RGB", size, (10, 20, 30))
        assert reduce_image(image, processor).size == (224, 224)
        assert process_images(processor, [image])["pixel_values"].shape == (1, 3, 224, 224)


def test_a_line_that_nothing_crops_is_refused() -> None:
    processor = CLIPImageProcessorPil(do_center_crop=False)
    with pytest.raises(ClipAlignError, match=r"20000 x 1 pixels becomes one of 4480000 x 224.*crop it"):
        reduce_image(Image.new("RGB", (20000, 1)), processor)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I", "F", "I;16"])
def test_bands_make_the_same_image(mode, monkeypatch) -> None:
    image = picture((37, 41)).convert("L").convert(mode) if mode != "RGBA" else picture((37, 41), mode)
    if mode == "RGBA":
        image.putalpha(picture((37, 41), "L", 1))
    if mode == "P":
        image.info["transparency"] = 3
    if mode == "F":
        image = Image.fromarray(np.asarray(image) * 7.7 - 300)
    whole = read_image(image)
    for pixels in (1, 100, 37 * 40):
        monkeypatch.setattr(reader, "_BAND_PIXELS", pixels)
        assert read_image(image).tobytes() == whole.tobytes()


def test_an_image_that_is_larger_than_it_says_is_refused() -> None:
    """The directory of an icon says 16 x 16, the PNG inside is larger."""
    stream = BytesIO()
    Image.new("RGBA", (200, 200)).save(stream, "ICO", sizes=[(200, 200)])
    data = bytearray(stream.getvalue())
    data[6:8] = b"\x10\x10"
    with pytest.raises(ClipAlignError, match=r"over max_pixels=1,000|damaged"):
        read_image(bytes(data), max_pixels=1000)


def test_no_memory_for_an_image_is_an_error_of_that_image(monkeypatch) -> None:
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(reader, "_to_rgb", refuse)
    with pytest.raises(ClipAlignError, match=r"big\.png: not enough memory for 9 x 4 pixels"):
        read_image(picture((9, 4)), name="big.png")


MEMORY = """
import sys
from pathlib import Path
from PIL import Image
from tests.data.images.test_processing import CLIPImageProcessorPil
from hf_clipalign.data import image_folder
from hf_clipalign.features.reading import ImageJob, ImageReader

reader = ImageReader(image_folder(sys.argv[1]), CLIPImageProcessorPil(), frozenset())


def most_megabytes():  # ru_maxrss would also count what the parent of this process held
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


start = most_megabytes()
batch = reader[ImageJob(0, range(8))]
assert batch.inputs["pixel_values"].shape == (8, 3, 224, 224), batch.failures
print(most_megabytes() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc of Linux")
def test_a_batch_of_small_files_of_many_pixels_needs_the_memory_of_one(tmp_path) -> None:
    for number in range(8):
        Image.new("1", (5000, 5000), number % 2).save(tmp_path / f"{number}.png")
    assert (tmp_path / "0.png").stat().st_size < 20_000
    run = [sys.executable, "-c", MEMORY, str(tmp_path)]
    megabytes = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert 50 < megabytes < 260  # 25 decoded and 100 in colour; eight at once would be 800
