"""Heads side by side, text-PCA, and the search for a band."""

import pytest
import torch
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.evaluation import HEAD_NAMES, Head, LabelledRetrieval, comparison_heads, search_band
from hf_clipalign.evaluation.band_search import band_grid
from hf_clipalign.isoclip import text_pca_projector, trim_projectors
from hf_clipalign.metrics import retrieval_metrics
from tests.tiny_models import tiny_clip


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder():
    return as_dual_encoder(tiny_clip())


def task(encoder, seed=0, classes=6, per_class=5):
    labels = torch.arange(classes).repeat_interleave(per_class)
    centres = draw(classes, encoder.vision_dim, seed=seed)
    query, gallery = (centres[labels] + 0.8 * draw(len(labels), encoder.vision_dim, seed=seed + i) for i in (1, 2))
    return LabelledRetrieval(query, gallery, labels.numpy(), labels.numpy())


def test_every_head_can_be_built_and_has_its_width(encoder):
    heads = comparison_heads(encoder, "image", (3, 4), draw(40, encoder.embed_dim))
    assert [head.name for head in heads] == [name for name in HEAD_NAMES if name != "linearised"]
    features = draw(7, encoder.vision_dim)
    widths = {head.name: head.width(features) for head in heads}
    assert widths == {
        "raw": 24, "pre-projection": 48, "centred": 24, "centred-each": 24, "isoclip": 24, "isoclip-compact": 17,
        "text-pca": 12,
    }  # fmt: skip
    for head in heads:
        query, gallery = head.embed(features, draw(9, encoder.vision_dim, seed=1))
        assert query.shape == (7, widths[head.name])
        torch.testing.assert_close(gallery.norm(dim=1), torch.ones(9))


def test_compact_and_trimmed_heads_agree(encoder):
    wide, narrow = comparison_heads(encoder, "text", (3, 4), names=("isoclip", "isoclip-compact"))
    query, gallery = draw(7, encoder.text_dim), draw(9, encoder.text_dim, seed=1)
    (a, b), (c, d) = wide.embed(query, gallery), narrow.embed(query, gallery)
    torch.testing.assert_close(c @ d.T, a @ b.T, atol=1e-5, rtol=0)


def test_centring_subtracts_the_mean_that_it_names():
    query, gallery = draw(7, 5), draw(9, 5, seed=1) + 3
    shared, own = Head("g", centering="gallery"), Head("e", centering="each")
    for head, mean in ((shared, gallery.mean(0)), (own, query.mean(0))):
        ours, theirs = head.embed(query, gallery)
        torch.testing.assert_close(ours, F.normalize(query - mean, dim=-1))
        torch.testing.assert_close(theirs, F.normalize(gallery - gallery.mean(0), dim=-1))


@pytest.mark.parametrize(("name", "reason"), [("isoclip", "band"), ("text-pca", "texts"), ("magic", "unknown head")])
def test_a_head_that_cannot_be_built_is_an_error(encoder, name, reason):
    with pytest.raises(ClipAlignError, match=reason):
        comparison_heads(encoder, "image", names=("raw", name))


def test_text_pca_spans_the_leading_components(encoder):
    from sklearn.decomposition import PCA

    texts = draw(60, 24, seed=3) * torch.linspace(3, 0.1, 24)
    projector = text_pca_projector(encoder.image_projector.weight, texts, 5)
    assert projector.shape == (5, encoder.vision_dim)
    components = torch.from_numpy(PCA(5).fit(F.normalize(texts, dim=-1).numpy()).components_).float()
    expected = components @ encoder.image_projector.weight.detach()
    torch.testing.assert_close(projector.T @ projector, expected.T @ expected, atol=1e-4, rtol=1e-4)
    assert text_pca_projector(encoder.image_projector.weight, texts).shape == (12, encoder.vision_dim)


@pytest.mark.parametrize(
    ("texts", "components", "reason"),
    [
        (torch.ones(30, 23), None, "24 outputs"),
        (torch.full((30, 24), float("nan")), None, "NaN"),
        (torch.ones(8, 24), 8, "8 components cannot be taken from 8 texts"),
        (torch.ones(30, 24), 0, "0 components"),
    ],
)
def test_text_pca_of_bad_texts_is_an_error(encoder, texts, components, reason):
    with pytest.raises(ClipAlignError, match=reason):
        text_pca_projector(encoder.image_projector.weight, texts, components)


def test_search_scores_every_band_as_trimming_would(encoder):
    problem = task(encoder)
    found = search_band(problem, encoder, k_top=(0, 2, 7), k_bottom=(0, 3))
    assert set(found.grid) == {(top, bottom) for top in (0, 2, 7) for bottom in (0, 3)}
    for band, score in found.grid.items():
        weight = trim_projectors(encoder.image_projector.weight, encoder.text_projector.weight, *band)[0].detach()
        expected = retrieval_metrics(problem.query @ weight.T, problem.gallery @ weight.T, *problem[2:4])["map"]
        assert score == pytest.approx(expected, abs=1e-6)
    assert found.score == max(found.grid.values()) == found.grid[found.band]
    assert found.untrimmed_score == found.grid[0, 0]


def test_search_averages_tasks_and_prefers_to_remove_less(encoder):
    problem = task(encoder)
    easy = LabelledRetrieval(problem.query[:3], problem.query[:3], [0, 1, 2], [0, 1, 2])
    assert search_band(easy, encoder).band == (0, 0)
    both = search_band([problem, easy], encoder, k_top=(0, 2), k_bottom=(0,))
    alone = search_band(problem, encoder, k_top=(0, 2), k_bottom=(0,))
    for band, score in both.grid.items():
        assert score == pytest.approx((alone.grid[band] + 1) / 2, abs=1e-6)


def test_the_default_grid_holds_the_untrimmed_band(encoder):
    assert (0, 0) in search_band(task(encoder), encoder).grid


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"validation": []}, "no validation task"),
        ({"metric": "beauty"}, "unknown metric 'beauty'"),
        ({"k_top": (24, 30)}, "no band"),
        ({"modality": "text"}, "give features before the projector"),
    ],
)
def test_a_search_that_cannot_be_is_an_error(encoder, arguments, reason):
    with pytest.raises(ClipAlignError, match=reason):
        search_band(**{"validation": task(encoder), "encoder": encoder, **arguments})


def test_the_default_grid_by_hand():
    """0, 1, 2, 4 and shares of the rank, as long as no more than 85 % is removed."""
    tops, bottoms = (0, 1, 2, 4, 8, 16, 24, 32, 48, 64), (0, 8, 16, 32, 48, 64)
    expected = [(top, bottom) for top in tops for bottom in bottoms if top + bottom <= 108]
    assert band_grid(128, None, None) == expected
    assert (64, 48) not in expected
    assert band_grid(128, [64], [48, 63, 64]) == [(64, 48), (64, 63)]
