"""Exports of every family, each read back by the library that it is for."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import Projector, tokenize
from hf_clipalign.features import Features
from hf_clipalign.hub import build_faiss_index, export_onnx, export_sentence_transformers
from tests.tiny_models import ALL_MAKERS, tiny_pixel_values, tiny_processor, tokenizer_of

IMAGE_BAND, TEXT_BAND = (3, 4), (2, 5)
TEXTS = ["a photo of a cat", "the red fox and the old house", "owl"]
SIGLIP = ("siglip", "siglip2")
ST_CASES = [
    *[(family, "image", False, "float32") for family in ALL_MAKERS],
    *[(family, "image", True, "float32") for family in ALL_MAKERS],
    *[(family, "text", True, "float32") for family in ALL_MAKERS],
    *[(family, "both", False, "float32") for family in ALL_MAKERS],
    ("clip", "image", True, "float16"),
    ("siglip", "text", False, "float16"),
]


def align(family):
    return IsoCLIPModel.from_clip_pretrained(ALL_MAKERS[family](), image_band=IMAGE_BAND, text_band=TEXT_BAND)


def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (40, 30, 3), dtype=np.uint8)) for _ in range(4)]


def unit(features):
    return F.normalize(features.float(), dim=-1)


def cosines(features):
    return unit(features) @ unit(features).T


@torch.no_grad()
def expected(model, family, modality):
    if modality == "image":
        batch = dict(tiny_processor(family).image_processor(images=images(), return_tensors="pt"))
    else:
        batch = tokenize(model.encoder, tokenizer_of(family), TEXTS)
    return getattr(model, f"get_{modality}_features")(**batch).pooler_output


@pytest.fixture(scope="module")
def sentence_embeddings(tmp_path_factory):
    """Embeddings of every exported folder, from one process that has sentence-transformers but not this package."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    root = tmp_path_factory.mktemp("st")
    for case in ST_CASES:
        family, modality, compact, dtype = case
        folder = root / "-".join(map(str, case))
        export_sentence_transformers(align(family), folder, tiny_processor(family), modality, compact, dtype)
    for index, image in enumerate(images()):
        image.save(root / f"{index}.png")
    code = f"""
        import sys; sys.modules["hf_clipalign"] = None
        import torch
        from pathlib import Path
        from PIL import Image
        from sentence_transformers import SentenceTransformer
        root = Path({str(root)!r})
        inputs = {{"image": [Image.open(root / f"{{i}}.png") for i in range(4)], "text": {TEXTS!r}}}
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            modality = folder.name.split("-")[1]
            model = SentenceTransformer(str(folder), device="cpu")
            sides = ("image", "text") if modality == "both" else (modality,)
            found = {{side: model.encode(inputs[side], convert_to_tensor=True) for side in sides}}
            torch.save(found, folder / "out.pt")
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return root


@pytest.mark.parametrize("case", ST_CASES, ids=lambda case: "-".join(map(str, case)))
def test_sentence_transformers_gives_the_aligned_cosines(case, sentence_embeddings):
    family, modality, compact, dtype = case
    found, model = torch.load(sentence_embeddings / "-".join(map(str, case)) / "out.pt"), align(family)
    assert set(found) == ({"image", "text"} if modality == "both" else {modality})
    for side, embeddings in found.items():
        features = expected(model, family, side)
        assert (embeddings.shape[1] < features.shape[1]) == compact
        torch.testing.assert_close(embeddings.float().norm(dim=1), torch.ones(len(embeddings)), atol=1e-3, rtol=0)
        tolerance = 1e-5 if dtype == "float32" else 5e-3
        torch.testing.assert_close(cosines(embeddings), cosines(features), atol=tolerance, rtol=0)
        if not compact:
            torch.testing.assert_close(embeddings.float(), unit(features), atol=tolerance, rtol=0)


def test_sentence_transformers_folder_says_what_may_be_compared(tmp_path):
    folder = export_sentence_transformers(align("clip"), tmp_path / "st", tiny_processor("clip"), "both")
    readme = (folder / "README.md").read_text()
    assert "Compare images with images and texts with texts only" in readme
    assert "NEVER compare an image embedding with a text embedding" in readme
    assert [module["path"] for module in json.loads((folder / "modules.json").read_text())] == ["", "1_Normalize"]


def test_an_image_export_does_not_carry_the_text_tower(tmp_path):
    folder = export_sentence_transformers(align("clip"), tmp_path / "st", tiny_processor("clip").image_processor)
    names = load_file(folder / "model.safetensors")
    assert names
    assert not any("text" in name for name in names)
    assert load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"].shape == (24, 48)


def test_what_cannot_be_written_is_refused(tmp_path):
    model, processor = align("clip"), tiny_processor("clip")
    with pytest.raises(ClipAlignError, match="compact image and text embeddings have different sizes"):
        export_sentence_transformers(model, tmp_path / "st", processor, "both", compact=True)
    with pytest.raises(ClipAlignError, match="unknown modality 'audio': give 'image', 'text' or 'both'"):
        export_sentence_transformers(model, tmp_path / "st", processor, "audio")
    with pytest.raises(ClipAlignError, match="holds no tokenizer: give the checkpoint's own processor"):
        export_sentence_transformers(model, tmp_path / "st", processor.image_processor, "text")
    with pytest.raises(ClipAlignError, match="unknown dtype 'int8': choose from float32, float16"):
        export_sentence_transformers(model, tmp_path / "st", processor, dtype="int8")
    images_only = IsoCLIPModel.from_clip_pretrained(ALL_MAKERS["clip"](), image_band=IMAGE_BAND)
    with pytest.raises(ClipAlignError, match="made without a text band"):
        export_sentence_transformers(images_only, tmp_path / "st", processor, "both")
    assert list(tmp_path.iterdir()) == []


def onnx_session(path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture
def onnx_packages():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")


@torch.no_grad()
def run_onnx(model, family, modality, path, n):
    session = onnx_session(path)
    if modality == "image":
        batch = tiny_pixel_values(n)
    else:
        batch = tokenize(model.encoder, tokenizer_of(family), (TEXTS * n)[:n])
    features = getattr(model, f"get_{modality}_features")(**batch).pooler_output
    names = [item.name for item in session.get_inputs()]
    assert [item.name for item in session.get_outputs()] == [f"{modality}_embeds"]
    (found,) = session.run(None, {name: batch[name].numpy() for name in names})
    return torch.from_numpy(found), features


@pytest.mark.usefixtures("onnx_packages")
@pytest.mark.parametrize(
    ("family", "modality"),
    [
        ("clip", "image"),
        ("siglip", "image"),
        ("chinese_clip", "image"),
        ("vision_text", "image"),
        *[
            pytest.param(family, "image", marks=pytest.mark.slow)  # CLIP's image tower again
            for family in ("metaclip_2", "altclip", "vision_text_clip", "clipseg")
        ],
        ("clip", "text"),
        ("siglip", "text"),
        ("chinese_clip", "text"),
        *[
            pytest.param(family, "text", marks=pytest.mark.slow)
            for family in ALL_MAKERS
            if family not in ("clip", "siglip", "chinese_clip")
        ],
    ],
)
def test_onnx_equals_torch_for_any_batch(family, modality, tmp_path):
    model = align(family)
    path = export_onnx(model, tmp_path / "tower.onnx", modality)
    for n in (1, 5):
        found, features = run_onnx(model, family, modality, path, n)
        torch.testing.assert_close(found, features, atol=1e-4, rtol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["tower.onnx"]
    for place in (torch.__file__, __file__):  # lines of code that the exporter notes, with their files
        assert str(Path(place).parent).encode() not in path.read_bytes()


def weight_bytes(path, number_format=None):
    import onnx

    weights = onnx.load(str(path)).graph.initializer
    names = onnx.TensorProto.DataType
    return sum(weight.ByteSize() for weight in weights if number_format in (None, names.Name(weight.data_type)))


@pytest.mark.usefixtures("onnx_packages")
def test_onnx_compact_half_precision_and_unit_length(tmp_path):
    model = align("clip")
    half = export_onnx(model, tmp_path / "half.onnx", compact=True, dtype="float16", normalize=True)
    found, features = run_onnx(model, "clip", "image", half, 4)
    assert found.shape == (4, 17)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(cosines(found), cosines(features), atol=1e-2, rtol=0)
    assert weight_bytes(half, "FLOAT16") > 0.99 * weight_bytes(half)
    assert model.clip.dtype == torch.float32


def test_onnx_refuses_flexible_image_shapes(tmp_path):
    with pytest.raises(ClipAlignError, match=r"Siglip2Model resizes its position table .*model_type siglip"):
        export_onnx(align("siglip2"), tmp_path / "tower.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ClipAlignError, match=r"pip install 'hf_clipalign\[onnx\]'"):
        export_onnx(align("clip"), tmp_path / "tower.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_faiss_search_gives_aligned_cosines(family, dtype, tolerance, tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    model, inputs = align(family), tiny_pixel_values(6, family)
    with torch.no_grad():
        values = model.encoder.image_projector.lift(model.encoder.image_preprojection(**inputs))
        aligned = unit(model.get_image_features(**inputs).pooler_output)
    features = Features(values, "image", [f"{row}.png" for row in range(6)])
    projector = model.aligned_projector("image", compact=True)
    file = build_faiss_index(features, tmp_path / "index", projector, dtype)
    index = faiss.read_index(str(file))
    assert (index.ntotal, index.d) == (6, len(projector.weight))
    queries = unit(values @ projector.matrix.T).numpy()
    found, rows = index.search(queries, 6)
    exact = (aligned @ aligned.T).numpy()
    np.testing.assert_allclose(found, np.take_along_axis(exact, rows, axis=1), atol=tolerance)
    assert rows[:, 0].tolist() == list(range(6))
    assert json.loads((tmp_path / "index" / "ids.json").read_text()) == features.ids


def test_faiss_takes_features_without_the_ones_of_a_bias(tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    projector = align("siglip").aligned_projector("image", compact=True)
    values = torch.randn(5, projector.weight.shape[1])
    assert projector.bias is not None
    assert len(projector.weight) != projector.weight.shape[1]
    bare, lifted = (
        faiss.read_index(str(build_faiss_index(given, tmp_path / name, projector))).reconstruct_n(0, 5)
        for name, given in (("bare", values), ("lifted", projector.lift(values)))
    )
    np.testing.assert_array_equal(bare, lifted)


@pytest.mark.parametrize("scale", [1e25, 1e60, 1e-14, 1e-60])
def test_faiss_takes_features_of_any_scale_and_equal_ones_stay_equal(scale, tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    values = torch.randn(40, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.cat([values, values])
    projector = Projector(torch.randn(16, 24, generator=torch.Generator().manual_seed(1)))
    for given in (None, projector):
        plain, scaled = (
            faiss.read_index(str(build_faiss_index(values * factor, tmp_path / f"{factor}", given))).reconstruct_n()
            for factor in (1.0, scale)
        )
        assert np.abs(np.linalg.norm(scaled, axis=1) - 1).max() < 1e-5
        assert np.abs(plain - scaled).max() < 1e-5
        assert np.array_equal(scaled[:40], scaled[40:])


def test_faiss_refuses_bad_features(tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed")
    projector = align("clip").aligned_projector("image")
    with pytest.raises(ClipAlignError, match="features have dimension 7, but the projector takes 48"):
        build_faiss_index(torch.randn(3, 7), tmp_path / "index", projector)
    with pytest.raises(ClipAlignError, match="NaN or infinite"):
        build_faiss_index(torch.full((3, 48), float("nan")), tmp_path / "index", projector)
    with pytest.raises(ClipAlignError, match=r"got \(0, 48\)"):
        build_faiss_index(torch.empty(0, 48), tmp_path / "index")
    assert not (tmp_path / "index").exists()
