"""Extraction into a folder: resumed, shared, refused, and always the same bytes."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign._io.files import exclusive_lock
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import Captions, ImageStream, StreamRecord, image_folder, open_stream
from hf_clipalign.features import FeatureStore, extract_image_features, extract_text_features, extract_to_store
from tests.features.store_run import SIZES
from tests.processes import launch
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_tokenizer

SCRIPT = Path(__file__).with_name("store_run.py")
N_FILES = 6  # a manifest, the plan, three shards (4 + 4 + 3 rows), the manifest again


@pytest.fixture(scope="module")
def model():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # like the processes that the tests start
    yield tiny_clip()
    torch.set_num_threads(threads)


@pytest.fixture
def images(tmp_path):
    """Eleven images in two classes; the third and the last cannot be read."""
    generator = np.random.default_rng(0)
    for number in range(11):
        file = tmp_path / "images" / ("cat" if number < 6 else "dog") / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
        if number in (2, 10):
            file.write_bytes(b"no image")
    return tmp_path / "images"


def extract(model, source, out, **options):
    options = SIZES | {"num_workers": 0, "progress": False} | options
    return extract_to_store(model, source, options.pop("processor", tiny_image_processor()), out, **options)


def content(folder):
    return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def times(folder):
    return {file.name: file.stat().st_mtime_ns for file in Path(folder).glob("features*")}


def test_the_store_holds_the_features_of_the_source_in_its_order(model, images, tmp_path):
    store = extract(model, image_folder(images), tmp_path / "out")
    features = extract_image_features(model, image_folder(images), tiny_image_processor(), progress=False)
    torch.testing.assert_close(store.values(), features.values)
    assert store.ids == features.ids
    assert store.ids[:3] == ["cat/00.png", "cat/01.png", "cat/03.png"]
    assert store.labels.tolist() == features.labels.tolist() == [0] * 5 + [1] * 4
    assert (len(store), store.class_names, store.n_skipped) == (9, ["cat", "dog"], 2)
    assert [name for name, _ in store.skipped] == ["cat/02.png", "dog/10.png"]
    assert all("not an image" in reason for _, reason in store.skipped)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
@pytest.mark.parametrize("n_workers", [0, 1])
def test_killed_at_any_moment_the_next_run_gives_the_same_bytes(model, images, tmp_path, n_workers):
    expected = content(extract(model, image_folder(images), tmp_path / "whole").folder)
    points = list(range(1, N_FILES + 1)) if n_workers == 0 else [4]
    done = subprocess.run(
        [sys.executable, SCRIPT, images, tmp_path / "cut", "--workers", str(n_workers), "--kill-before"]
        + [str(point) for point in points],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert done.stdout.split() == ["9"] * len(points)
    for point in points:
        cut = tmp_path / f"cut-{point}"
        assert len(list(cut.glob("features-*.safetensors"))) == max(0, min(point - 3, 3))
        assert list(cut.glob(".*~*")), "the file that was being written"
        with pytest.raises(ClipAlignError, match="no features" if point == 1 else "unfinished"):
            FeatureStore.open(cut)
        before = times(cut)
        extract(model, image_folder(images), cut)
        assert content(cut) == expected
        kept = [name for name in before if name.endswith(".safetensors")]
        assert all(times(cut)[name] == before[name] for name in kept), "finished shards are not made again"


def test_a_complete_store_is_used_as_it_is(model, images, tmp_path):
    extract(model, image_folder(images), tmp_path / "out")
    before = times(tmp_path / "out")
    store = extract(model, image_folder(images), tmp_path / "out", shard_size=100, batch_size=2)
    assert times(tmp_path / "out") == before
    assert len(store) == 9


@pytest.mark.parametrize("damage", ["cut off", "changed", "missing"])
def test_a_damaged_shard_is_named_and_only_it_is_made_again(model, images, tmp_path, damage, caplog):
    out = tmp_path / "out"
    extract(model, image_folder(images), out)
    expected, before = content(out), times(out)
    (file,) = out.glob("features-00001-*.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut off":
        file.write_bytes(data[:-7])
    else:
        data[-5] ^= 1
        file.write_bytes(data)
    with pytest.raises(ClipAlignError, match=r"features-00001-\w+\.safetensors: it(s| is| has)"):
        FeatureStore.open(out).values()
    with pytest.raises(ClipAlignError, match="batch_size=3"):
        extract(model, image_folder(images), out, batch_size=2)
    extract(model, image_folder(images), out)
    assert content(out) == expected
    changed = [name for name, time in times(out).items() if time != before.get(name)]
    assert sorted(changed) == [file.name, "features.json"]


def test_other_shards_of_a_damaged_store_can_still_be_read(model, images, tmp_path):
    store = extract(model, image_folder(images), tmp_path / "out")
    row = store.values([8])
    (file,) = (tmp_path / "out").glob("features-00000-*.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    fresh = FeatureStore.open(tmp_path / "out")
    assert torch.equal(fresh.values([8]), row)
    with pytest.raises(ClipAlignError, match=r"features-00000-\w+\.safetensors: its content has changed"):
        fresh.verify()


def test_what_differs_from_a_store_is_named(model, images, tmp_path):
    out = tmp_path / "out"
    extract(model, image_folder(images), out)
    expected = content(out)
    processor = tiny_image_processor()
    processor.image_mean = [0.1, 0.2, 0.3]
    other = image_folder(images / "cat")
    for match, change in (
        ("model weights", {"model": tiny_clip(seed=1)}),
        (r"dtype \(float32 there, bfloat16 here\)", {"model": tiny_clip().to(torch.bfloat16)}),
        (r"processor \(image_mean: .* there, \[0\.1, 0\.2, 0\.3\] here\)", {"processor": processor}),
        (rf"data \({images} there, {images / 'cat'} here\)", {"source": other}),
    ):
        options = {"model": model, "source": image_folder(images), "out": out} | change
        with pytest.raises(ClipAlignError, match=match) as caught:
            extract(**options)
        assert "overwrite" in str(caught.value)
        assert content(out) == expected
    store = extract(model, other, out, overwrite=True)
    assert store.ids[0] == "00.png"
    assert len(list(out.glob("features-*"))) == 2


def test_features_are_not_used_with_another_model(model, images, tmp_path):
    from hf_clipalign.backbones import as_dual_encoder

    store = extract(model, image_folder(images), tmp_path / "out")
    store.check_model(as_dual_encoder(tiny_clip()))
    with pytest.raises(ClipAlignError, match="another model"):
        store.check_model(as_dual_encoder(tiny_clip(seed=1)))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_another_type_computes_with_a_copy(model, images, tmp_path, dtype):
    source, name = image_folder(images), str(dtype).removeprefix("torch.")
    exact = extract(model, source, tmp_path / "exact", dtype="float32")
    assert content(exact.folder) == content(extract(model, source, tmp_path / "own").folder)
    store = extract(model, source, tmp_path / "out", dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    store.check_model(as_dual_encoder(model))
    assert (store.manifest["model"]["dtype"], store.values().dtype) == (name, torch.float32)
    assert not torch.equal(store.values(), exact.values())
    assert torch.cosine_similarity(store.values(), exact.values()).min() > 0.999
    with pytest.raises(ClipAlignError, match=rf"what differs: dtype \({name} there, float32 here\)"):
        extract(model, source, tmp_path / "out")
    with pytest.raises(ClipAlignError, match="unknown dtype 'int8': choose from float32, bfloat16, float16"):
        extract(model, source, tmp_path / "out", dtype="int8")


def test_texts_in_another_type(model, tmp_path):
    texts = ["a cat", "an old house"]
    exact, store = (
        extract(model, texts, tmp_path / name, processor=tiny_tokenizer(), dtype=name)
        for name in ("float32", "bfloat16")
    )
    assert not torch.equal(store.values(), exact.values())
    assert torch.cosine_similarity(store.values(), exact.values()).min() > 0.999


def test_other_sizes_cannot_go_on_with_an_unfinished_store(model, images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ClipAlignError, match=r"02\.png"):
        extract(model, image_folder(images), out, strict=True, shard_size=2)
    assert list(out.glob("features-00000-*.safetensors"))
    with pytest.raises(ClipAlignError, match=r"unfinished .* shard_size=2"):
        extract(model, image_folder(images), out)
    assert len(extract(model, image_folder(images), out, shard_size=2)) == 9


def test_strict_does_not_accept_a_store_with_skipped_images(model, images, tmp_path):
    extract(model, image_folder(images), tmp_path / "out")
    with pytest.raises(ClipAlignError, match=r"02\.png"):
        extract(model, image_folder(images), tmp_path / "out", strict=True)


def test_nothing_readable_is_an_error(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(ClipAlignError, match=r"none of the 1 images can be read.*a\.png"):
            extract(model, image_folder(tmp_path), tmp_path / "out")


def test_two_runs_on_one_folder_exclude_each_other(model, images, tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys; from hf_clipalign.features.storage.folder import folder_lock; "
        "from hf_clipalign.features.rows import FEATURES; from pathlib import Path\n"
        "with folder_lock(Path(sys.argv[1]), FEATURES): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ClipAlignError, match="another run is writing features to"):
            extract(model, image_folder(images), out)
        assert not list(out.glob("features*"))
    finally:
        holder.kill()
        holder.communicate()
    assert len(extract(model, image_folder(images), out)) == 9


def test_a_lock_also_excludes_its_own_process(tmp_path):
    with exclusive_lock(tmp_path / "lock", "taken"):
        second = exclusive_lock(tmp_path / "lock", "taken")
        with pytest.raises(ClipAlignError, match="taken"):
            second.__enter__()
    with exclusive_lock(tmp_path / "lock", "taken"):
        pass


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(model, images, tmp_path):
    expected = content(extract(model, image_folder(images), tmp_path / "one").folder)
    launch(SCRIPT, images, tmp_path / "two", processes=2)
    assert content(tmp_path / "two") == expected


def stream_of(n, counted=None):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (n, 8, 9, 3), dtype=np.uint8)

    def records(first):
        for row in range(first, n):
            if counted is not None:
                counted.append(row)
            yield StreamRecord(f"p{row}", images[row] if row != 5 else b"no image", row % 2)

    return ImageStream(records, fingerprint=lambda: "synthetic", class_names=["even", "odd"])


@pytest.mark.parametrize("n", [7, 8, 9])
def test_a_stream_of_unknown_length(model, tmp_path, n):
    store = extract(model, stream_of(n), tmp_path / "out", num_workers=1 if n == 9 else 0)
    rows = [row for row in range(n) if row != 5]
    assert store.ids == [f"p{row}" for row in rows]
    assert store.labels.tolist() == [row % 2 for row in rows]
    assert [name for name, _ in store.skipped] == ["p5"]
    assert len(store.manifest["shards"]) == -(-n // 4)


def test_a_stream_goes_on_after_the_shards_that_are_there(model, tmp_path):
    out = tmp_path / "out"
    expected = content(extract(model, stream_of(11), tmp_path / "whole").folder)
    extract(model, stream_of(11), out)
    manifest = (out / "features.json").read_text()
    for missing, first in ((("00002",), 8), (("00001",), 4), ((), 11)):
        for number in missing:
            next(out.glob(f"features-{number}-*.safetensors")).unlink()
        (out / "features.json").unlink()
        counted = []
        extract(model, stream_of(11, counted), out)
        assert counted == list(range(first, 11))
        assert content(out) == expected
    assert (out / "features.json").read_text() == manifest


def test_a_streamed_data_set(model, images, tmp_path):
    files = sorted(str(file) for file in images.rglob("*.png"))
    names = [file[-6:-4] for file in files]
    table = datasets.Dataset.from_dict({"image": files, "label": [0] * 6 + [1] * 5, "name": names})
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "name": datasets.Value("string"),
        }
    )
    streamed = table.cast(features).to_iterable_dataset()
    store = extract(model, open_stream(streamed, id_column="name"), tmp_path / "out")
    folder = extract(model, image_folder(images), tmp_path / "folder")
    assert torch.equal(store.values(), folder.values())
    assert store.ids == [name[-6:-4] for name in folder.ids]
    assert (store.labels.tolist(), store.class_names) == (folder.labels.tolist(), ["cat", "dog"])
    assert extract(model, streamed, tmp_path / "rows").ids[-1] == "9"
    before = store.values()
    again = extract(model, open_stream(streamed, id_column="name", fingerprint="v2"), tmp_path / "out")
    assert torch.equal(again.values(), before)
    with pytest.raises(ClipAlignError, match="another run has replaced it since it was opened"):
        store.values()


def test_texts(model, tmp_path):
    texts = ["the big red boat on the old bridge", "owl", "a photo of a cat", "a fox", "a dog", "owl"]
    captions = Captions(texts, np.array([0, 0, 1, 1, 2, 2]), ["x", "y", "z"])
    store = extract(model, captions, tmp_path / "out", processor=tiny_tokenizer(), batch_size=2)
    expected = extract_text_features(model, texts, tiny_tokenizer(), progress=False)
    torch.testing.assert_close(store.values(), expected.values, atol=1e-5, rtol=1e-5)
    assert (store.modality, store.ids[-1], store.labels.tolist()) == ("text", "5", [0, 0, 1, 1, 2, 2])
    with pytest.raises(ClipAlignError, match="reads 77"):
        extract(model, ["cat " * 100], tmp_path / "long", processor=tiny_tokenizer())
    long = extract(model, ["cat " * 100], tmp_path / "cut", processor=tiny_tokenizer(), truncate=True)
    assert len(long) == 1
    with pytest.raises(ClipAlignError, match=r"processor \(truncate: True there, False here\)"):
        extract(model, ["cat " * 100], tmp_path / "cut", processor=tiny_tokenizer())


def test_memory_is_pinned_for_a_gpu_alone(model, images, tmp_path, monkeypatch):
    from hf_clipalign.features.engines import computing

    pinned, batches = [], computing.image_batches

    def noted(source, processor, jobs, workers, on_gpu, *rest):
        pinned.append(on_gpu)
        return batches(source, processor, jobs, workers, on_gpu, *rest)

    monkeypatch.setattr(computing, "image_batches", noted)
    extract(model, image_folder(images), tmp_path / "out")
    assert pinned == [False]
