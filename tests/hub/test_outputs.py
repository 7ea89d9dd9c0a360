"""What `trim` and `export` may replace: their own results from the same model, nothing else."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.cli.app import app
from hf_clipalign.features import Features
from hf_clipalign.hub import outputs, written_folder
from hf_clipalign.hub.outputs import check_onnx_file
from tests.tiny_models import save_tiny

OWN_FACTS = {"base_model_name_or_path": "me/base", "modality": "image"}


def clipalign(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output.replace("\n", "")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "clip"
    save_tiny("clip", folder)
    return folder


@pytest.fixture
def trim(base):
    def run(out, *arguments, model=base, band="3,4"):
        return clipalign("trim", "--model", model, "--image-band", band, "--out", out, *arguments)

    return run


def snapshot(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def other_model(folder, changed="text_model.encoder.layers.0.mlp.fc1.weight"):
    """A model of the same sizes, one weight of which is another."""
    from transformers import CLIPModel

    save_tiny("clip", folder)
    model = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        model.get_parameter(changed).view(-1)[0] += 1
    model.save_pretrained(folder)
    return folder


def test_the_own_result_is_replaced_as_a_whole(trim, tmp_path):
    trim(tmp_path / "out")
    trim(tmp_path / "out", band="5,6")
    assert IsoCLIPModel.from_pretrained(tmp_path / "out").config.image_band == [5, 6]
    trim(tmp_path / "stock", "--stock", "image")
    trim(tmp_path / "stock", "--stock", "image", "--compact")
    assert json.loads((tmp_path / "stock" / "config.json").read_text())["projection_dim"] == 17
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "stock"]


def features_folder(folder):
    Features(torch.randn(2, 48), "image", ["maria.png", "juan.png"]).save(folder)


def own_card(folder):
    (folder / "README.md").write_text("by hand")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (features_folder, r"holds features \(.*, not an aligned model: give another folder, or --overwrite to lose"),
        (lambda folder: save_tiny("clip", folder), r"holds a model \(.*, not an aligned model"),
        (lambda folder: (folder / "diary.txt").write_text("x"), r"holds files that no command wrote \(diary.txt\)"),
    ],
)
def test_something_else_is_not_replaced(trim, tmp_path, prepare, message, caplog):
    out = tmp_path / "out"
    out.mkdir()
    prepare(out)
    before = snapshot(out)
    with pytest.raises(ClipAlignError, match=message) as caught:
        trim(out)
    assert "\n" not in str(caught.value)
    assert snapshot(out) == before
    with caplog.at_level(logging.WARNING, "hf_clipalign"):
        trim(out, "--overwrite")
    assert any("is replaced" in line and min(path.name for path in before) in line for line in caplog.messages)
    assert not {"diary.txt", "features.json"} & {path.name for path in out.iterdir()}
    assert (out / "spectrum.png").is_file()


@pytest.mark.parametrize("kind", [(), ("--stock", "image")])
def test_a_result_of_another_model_is_not_replaced(trim, tmp_path, kind):
    trim(
        tmp_path / "out", *kind, model=other_model(tmp_path / "other", "vision_model.encoder.layers.0.mlp.fc1.weight")
    )
    before = snapshot(tmp_path / "out")
    with pytest.raises(ClipAlignError, match=r"made from another model, .*: give another folder, or --overwrite"):
        trim(tmp_path / "out", *kind)
    assert snapshot(tmp_path / "out") == before
    trim(tmp_path / "out", *kind, "--overwrite")
    assert snapshot(tmp_path / "out") != before


def test_another_kind_of_result_is_not_replaced(trim, tmp_path):
    trim(tmp_path / "out", "--stock", "image")
    with pytest.raises(ClipAlignError, match=r"holds a stock export \(.*\), not an aligned model"):
        trim(tmp_path / "out")
    with pytest.raises(ClipAlignError, match="or from its other tower"):
        trim(tmp_path / "out", "--stock", "text", "--text-band", "2,5")


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {"base_model_name_or_path": "me/other", "modality": "image"},
        {"base_model_name_or_path": "me/base", "modality": "text"},
    ],
)
def test_an_onnx_file_of_something_else_is_not_replaced(facts, tmp_path, monkeypatch):
    (tmp_path / "clip.onnx").write_bytes(b"weights")
    model = SimpleNamespace(config=SimpleNamespace(base_model_name_or_path="me/base"))
    monkeypatch.setattr(outputs, "onnx_facts", lambda file: facts)
    with pytest.raises(ClipAlignError, match="may have been made from another model"):
        check_onnx_file(tmp_path / "clip", model, "image")
    check_onnx_file(tmp_path / "clip", model, "image", overwrite=True)
    monkeypatch.setattr(outputs, "onnx_facts", lambda file: {**(facts or {}), **OWN_FACTS})
    check_onnx_file(tmp_path / "clip", model, "image")


def test_a_card_by_hand_is_not_lost(trim, tmp_path):
    trim(tmp_path / "out")
    own_card(tmp_path / "out")
    with pytest.raises(ClipAlignError, match=r"also holds files .*README.md.*--overwrite to lose them"):
        trim(tmp_path / "out")


def test_what_is_read_is_never_replaced(tmp_path, monkeypatch):
    model = tmp_path / "deep" / "clip"
    save_tiny("clip", model)
    before = snapshot(model)
    monkeypatch.chdir(tmp_path)
    for out in (model, model.parent, "deep/clip", "deep/../deep/clip/", tmp_path):
        for command in (("trim",), ("export", "--to", "stock"), ("export", "--to", "sentence-transformers")):
            with pytest.raises(ClipAlignError, match=r"give another folder|give a new folder"):
                clipalign(*command, "--model", model, "--image-band", "3,4", "--out", out, "--overwrite")
    assert snapshot(model) == before


def test_a_file_in_the_place_of_a_folder(trim, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ClipAlignError, match="is a file: name a folder"):
        trim(tmp_path / "out", "--overwrite")
    with (
        pytest.raises(ClipAlignError, match="a file of that name exists"),
        written_folder(tmp_path / "out", "isoclip"),
    ):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_a_failure_leaves_the_old_result(trim, tmp_path):
    trim(tmp_path / "out")
    before = snapshot(tmp_path / "out")

    def fail(folder):
        (folder / "config.json").write_text("{}")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), written_folder(tmp_path / "out", "isoclip") as folder:
        fail(folder)
    assert snapshot(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_index_of_embedded_images(base, tmp_path, caplog):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    model = IsoCLIPModel.from_clip_pretrained(base, image_band=(3, 4))
    values = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    Features(values, "image", [f"{row}.png" for row in range(5)]).save(tmp_path / "features")
    arguments = ("export", "--model", base, "--image-band", "3,4", "--compact", "--to", "faiss")
    options = ("--features", tmp_path / "features", "--out", tmp_path / "index")
    clipalign(*arguments, *options)
    clipalign(*arguments, *options)
    index = faiss.read_index(str(tmp_path / "index" / "index.faiss"))
    assert (index.ntotal, index.d) == (5, 17)
    facts = json.loads((tmp_path / "index" / "index.json").read_text())["hf_clipalign"]
    assert (facts["dimension"], facts["band"], facts["similarity"]) == (17, [3, 4], "cosine")
    unit = torch.nn.functional.normalize(values @ model.aligned_projector("image", compact=True).weight.T, dim=1)
    found, rows = index.search(unit.numpy(), 5)
    assert rows[:, 0].tolist() == list(range(5))
    torch.testing.assert_close(torch.from_numpy(found[:, 0]), torch.ones(5))
    text = ("--modality", "text", "--text-band", "2,5")
    with pytest.raises(ClipAlignError, match="holds image features, but text ones are asked for"):
        clipalign("export", "--model", base, "--compact", "--to", "faiss", *options, *text)
    with pytest.raises(ClipAlignError, match="holds what is read"):
        clipalign(*arguments, "--features", tmp_path / "features", "--out", tmp_path / "features", "--overwrite")
    with pytest.raises(ClipAlignError, match="belong together"):
        clipalign(*arguments, "--out", tmp_path / "index")


def test_an_index_needs_features_of_the_same_model(base, tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed")
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "a.png")
    clipalign("embed", tmp_path / "photos", "--model", base, "--out", tmp_path / "features", "--workers", "0")
    other = other_model(tmp_path / "other", "vision_model.encoder.layers.0.mlp.fc1.weight")
    arguments = ("--image-band", "3,4", "--to", "faiss", "--features", tmp_path / "features", "--out", tmp_path / "i")
    with pytest.raises(ClipAlignError, match="are of another model"):
        clipalign("export", "--model", other, *arguments)
    clipalign("export", "--model", base, *arguments)
