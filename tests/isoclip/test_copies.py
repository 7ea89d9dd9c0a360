"""Published bands for local copies of published models, in the layout that they were chosen with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.siglip import SiglipEncoder
from hf_clipalign.cli.commands.trim import trim
from hf_clipalign.isoclip import KnownBands, Sizes, bands, known_bands, trim_projectors
from tests.tiny_models import save_tiny, tiny_clip, tiny_siglip, tiny_siglip2

CLIP, SIGLIP2 = "openai/clip-vit-base-patch32", "google/siglip2-base-patch16-224"
TINY_CLIP = KnownBands(image=(2, 3), text=(1, 4), sizes=Sizes(24, 48, 32, 3, 3, 8))
TINY_SIGLIP2 = KnownBands(image=(5, 4), layout="reference", sizes=Sizes(32, 32, 32, 3, 3, 8))


@pytest.fixture
def tiny_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models as if the paper reported bands for models of their sizes."""
    monkeypatch.setitem(bands._PUBLISHED, CLIP, TINY_CLIP)
    monkeypatch.setitem(bands._PUBLISHED, SIGLIP2, TINY_SIGLIP2)


def named(model: Any, name: str) -> Any:
    model.config._name_or_path = name
    return model


@pytest.mark.parametrize("make", [tiny_siglip, tiny_siglip2])
@pytest.mark.usefixtures("tiny_bands")
def test_a_published_band_brings_its_layout(make: Any) -> None:
    model = named(make(), SIGLIP2)
    with pytest.warns(UserWarning, match="projector layout 'reference'"):
        aligned = IsoCLIPModel.from_clip_pretrained(model)
    assert aligned.config.image_band == [5, 4]
    assert aligned.config.projector_layout == "reference"
    reference = SiglipEncoder(model, layout="reference")
    expected = trim_projectors(reference.image_projector.matrix, reference.text_projector.matrix, 5, 4)[0]
    assert torch.equal(aligned.image_projection.weight, expected[:, :-1])
    consistent = SiglipEncoder(model)
    other = trim_projectors(consistent.image_projector.matrix, consistent.text_projector.matrix, 5, 4)[0]
    assert (expected - other).abs().max() > 0.1


@pytest.mark.usefixtures("tiny_bands")
def test_a_given_band_keeps_the_layout_of_the_view() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = IsoCLIPModel.from_clip_pretrained(named(tiny_siglip(), SIGLIP2), image_band=(5, 4))
        asked = IsoCLIPModel.from_clip_pretrained(SiglipEncoder(named(tiny_siglip(), SIGLIP2), layout="reference"))
    assert both.config.projector_layout == "consistent"
    assert (asked.config.projector_layout, asked.config.image_band) == ("reference", [5, 4])


@pytest.mark.usefixtures("tiny_bands")
def test_a_given_band_beside_a_published_one_of_another_layout_is_refused() -> None:
    with pytest.raises(ClipAlignError, match=r"published band \(5, 4\).*'reference'.*given band \(1, 2\)"):
        IsoCLIPModel.from_clip_pretrained(named(tiny_siglip(), SIGLIP2), text_band=(1, 2))
    aligned = IsoCLIPModel.from_clip_pretrained(named(tiny_clip(), CLIP), text_band=(7, 2))
    assert (aligned.config.image_band, aligned.config.text_band) == ([2, 3], [7, 2])
    aligned = IsoCLIPModel.from_clip_pretrained(named(tiny_clip(), CLIP), image_band=(7, 2))
    assert (aligned.config.image_band, aligned.config.text_band) == ([7, 2], [1, 4])


def test_the_published_band_of_siglip_2_says_its_layout() -> None:
    layouts = {name: known.layout for name, known in bands._PUBLISHED.items() if known.layout != "consistent"}
    assert layouts == {SIGLIP2: "reference", "timm/vit-b-16-siglip2": "reference"}


def in_the_cache(folder: Path) -> Path:
    return save_tiny("clip", folder / "hub" / "models--openai--clip-vit-base-patch32" / "snapshots" / "abc123")


def by_its_config(folder: Path) -> Path:
    path = save_tiny("clip", folder / "mine") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_name_or_path": CLIP}))
    return path.parent


def by_its_card(folder: Path, front_matter: str = f"base_model: {CLIP}") -> Path:
    path = save_tiny("clip", folder / "mine") / "README.md"
    path.write_text(f"---\nlicense: mit\n{front_matter}\n---\n\n# Mine\n")
    return path.parent


@pytest.mark.parametrize("make", [in_the_cache, by_its_config, by_its_card])
@pytest.mark.usefixtures("tiny_bands")
def test_a_local_copy_gets_the_published_band(make: Any, tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert known_bands(folder) == TINY_CLIP
    assert known_bands(str(folder)) == TINY_CLIP
    aligned = IsoCLIPModel.from_clip_pretrained(folder)
    assert (aligned.config.image_band, aligned.config.text_band) == ([2, 3], [1, 4])
    assert known_bands(aligned.clip) == TINY_CLIP
    assert known_bands(as_dual_encoder(aligned)) == TINY_CLIP


@pytest.mark.usefixtures("tiny_bands")
def test_cards_in_their_kinds(tmp_path: Path) -> None:
    assert known_bands(by_its_card(tmp_path, f"base_model:\n- someone/else\n- {CLIP.upper()}")) == TINY_CLIP
    assert known_bands(by_its_card(tmp_path, f"model_id: {CLIP}")) == TINY_CLIP
    for relation in ("finetune", "adapter", "merge", "quantized"):
        assert known_bands(by_its_card(tmp_path, f"base_model: {CLIP}\nbase_model_relation: {relation}")) is None
    for odd in ("base_model: 3", "base_model: [[1]]", "- 1", "a: &x [*x]", "{", "base_model: !!python/name:os.system"):
        assert known_bands(by_its_card(tmp_path, odd)) is None
    (tmp_path / "mine" / "README.md").write_bytes(b"---\n\xff\xfe\n")
    assert known_bands(tmp_path / "mine") is None


@pytest.mark.usefixtures("tiny_bands")
def test_the_user_says_what_a_folder_is_a_copy_of(tmp_path: Path) -> None:
    folder = save_tiny("clip", tmp_path)
    assert known_bands(folder) is None
    assert known_bands(folder, base_model=CLIP) == TINY_CLIP
    aligned = IsoCLIPModel.from_clip_pretrained(folder, base_model=CLIP)
    assert aligned.config.image_band == [2, 3]
    assert aligned.config.base_model_name_or_path == CLIP
    with pytest.raises(ClipAlignError, match="no band is published for base model 'some/one'"):
        known_bands(folder, base_model="some/one")


def test_a_copy_of_other_sizes_is_refused(tmp_path: Path) -> None:
    folder = save_tiny("clip", tmp_path)
    with pytest.raises(ClipAlignError, match=f"copy of {CLIP}, but its projection_dim is 24 instead of 512"):
        known_bands(folder, base_model=CLIP)
    with pytest.raises(ClipAlignError, match="instead of 512"):
        known_bands(tiny_clip(), base_model=CLIP)
    with pytest.raises(ClipAlignError, match="Give a band yourself"):
        IsoCLIPModel.from_clip_pretrained(by_its_config(tmp_path))
    given = IsoCLIPModel.from_clip_pretrained(by_its_config(tmp_path), image_band=(2, 3))
    assert (given.config.image_band, given.config.text_band) == ([2, 3], None)


@pytest.mark.parametrize("field", Sizes._fields)
def test_every_size_counts(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TINY_CLIP.sizes is not None
    sizes = TINY_CLIP.sizes._replace(**{field: 7})
    monkeypatch.setitem(bands._PUBLISHED, CLIP, KnownBands(image=(2, 3), sizes=sizes))
    with pytest.raises(ClipAlignError, match=f"its {field} is {getattr(TINY_CLIP.sizes, field)} instead of 7"):
        known_bands(named(tiny_clip(), CLIP))


def test_an_unknown_model_is_told_the_published_ones_with_their_bands() -> None:
    with pytest.raises(ClipAlignError) as caught:
        IsoCLIPModel.from_clip_pretrained(tiny_clip())
    message = str(caught.value)
    assert f"{CLIP} (image (150, 50), text (20, 100))" in message
    assert f"{SIGLIP2} (image (350, 50))" in message
    assert "base_model=ID" in message
    assert len(message.splitlines()) == 1
    shown = bands.unknown_band_message("mine", spelling="cli")
    assert f"{CLIP} (--image-band 150,50, --text-band 20,100)" in shown
    assert "--base-model ID" in shown
    assert "image_band" not in shown


def test_an_aligned_model_is_not_aligned_again(tmp_path: Path) -> None:
    aligned = IsoCLIPModel.from_clip_pretrained(named(tiny_clip(), "some/one"), image_band=(2, 3))
    aligned.save_pretrained(tmp_path)
    for given in (aligned, tmp_path, str(tmp_path)):
        with pytest.raises(ClipAlignError, match=r"aligned already \(image band \[2, 3\].*base model 'some/one'"):
            IsoCLIPModel.from_clip_pretrained(given, image_band=(1, 1))


@pytest.mark.usefixtures("tiny_bands")
def test_the_command_takes_the_name_of_the_base_model(tmp_path: Path) -> None:
    folder, out = save_tiny("clip", tmp_path / "mine"), tmp_path / "out"
    with pytest.raises(ClipAlignError, match="give --base-model ID"):
        trim(str(folder), out=out)
    trim(str(folder), out=out, base_model=CLIP)
    assert json.loads((out / "config.json").read_text())["image_band"] == [2, 3]
    with pytest.raises(ClipAlignError, match="is aligned already"):
        trim(str(out), out=tmp_path / "again")
