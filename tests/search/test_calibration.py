"""Scores mean what they say: on mixtures whose truth is known, at any density, and with nothing to learn from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.search import Calibration
from hf_clipalign.search.tails import Tails, isotonic


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def images(n: int, width: int = 24, clusters: int = 30, spread: float = 0.5, seed: int = 0) -> np.ndarray:
    """Rows around centres, some clusters much denser than others, as collections are."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, width))
    chosen = random.integers(clusters, size=n)
    width_of = spread * random.uniform(0.2, 2, size=clusters)[chosen, None]
    return unit(centres[chosen] + width_of * random.standard_normal((n, width)))


def views_of(rows: np.ndarray, n: int, noise: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return unit(rows[:, None] + noise * random.standard_normal((len(rows), n, rows.shape[1])) / np.sqrt(rows.shape[1]))


def strengths_of(rows: np.ndarray, noises: tuple[float, ...] = (0.2, 0.5), n: int = 2, seed: int = 1) -> np.ndarray:
    return np.stack([views_of(rows, n, noise, seed + place) for place, noise in enumerate(noises)], axis=1)


def ranked(
    queries: np.ndarray, gallery: np.ndarray, hidden: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ gallery.T
    if hidden is not None:
        scores[np.arange(len(queries)), hidden] = -np.inf
    return scores.argmax(1), -np.sort(-scores, axis=1)[:, :12]


def outcomes(calibration: Calibration, gallery: np.ndarray, rows: np.ndarray, queries: np.ndarray):
    """(right, kept) of the best hits of queries, each asked once with its image there and once without."""
    best, present = ranked(queries, gallery)
    _, absent = ranked(queries, gallery, rows)
    right = np.concatenate([best == rows, np.zeros(len(rows), bool)])
    return right, np.concatenate([present, absent])


@pytest.fixture(scope="module")
def fitted():
    gallery = images(1500)
    rows = np.random.default_rng(3).permutation(1500)
    sample, rest = rows[:500], rows[500:]
    return gallery, rest, Calibration.fit(gallery, strengths_of(gallery[sample]), sample)


@pytest.mark.parametrize("fdr", [0.05, 0.1, 0.2])
def test_the_false_discovery_rate_is_kept_on_images_that_were_not_sampled(fitted, fdr):
    gallery, rest, calibration = fitted
    right, scores = [], []
    for place, noise in enumerate((0.2, 0.5)):
        found = outcomes(calibration, gallery, rest, views_of(gallery[rest], 1, noise, 50 + place)[:, 0])
        right.append(found[0])
        scores.append(found[1])
    is_right, lists = np.concatenate(right), np.concatenate(scores)
    kept = calibration.false_share(lists)[:, 0] <= fdr
    error = 1.96 * np.sqrt(fdr * (1 - fdr) / kept.sum())
    assert kept.sum() > 200
    assert (~is_right[kept]).mean() <= fdr + error
    alone = lists[:, 0] >= calibration.threshold(fdr)
    assert (alone & ~is_right).sum() <= fdr * alone.sum() + 1.96 * np.sqrt(fdr * (1 - fdr) * alone.sum())
    assert (is_right & kept).sum() >= (is_right & alone).sum()


def test_confidence_is_the_share_of_right_hits(fitted):
    gallery, rest, calibration = fitted
    found = [
        outcomes(calibration, gallery, rest, views_of(gallery[rest], 1, noise, 70 + place)[:, 0])
        for place, noise in enumerate((0.2, 0.5))
    ]
    right, lists = (np.concatenate(part) for part in zip(*found, strict=True))
    said = calibration.confidence(lists)[:, 0]
    order = np.argsort(said, kind="stable")
    for part in np.array_split(order, 8):
        share, mean = right[part].mean(), said[part].mean()
        assert abs(share - mean) < 0.04 + 3 * np.sqrt(mean * (1 - mean) / len(part))


def test_confidence_never_falls_where_scores_rise(fitted):
    calibration = fitted[2]
    assert calibration.reference_rank > 1
    tops = np.linspace(0.6, 1, 200)
    lists = np.column_stack([tops, *[np.full(200, 0.6 - 0.01 * rank) for rank in range(11)]])
    for values in (calibration.confidence(lists)[:, 0], -calibration.false_share(lists)[:, 0]):
        assert (np.diff(values) >= 0).all()
    alone = calibration.confidence(tops)[: calibration.reference_rank - 1]
    assert (np.diff(alone) >= 0).all()
    within = calibration.confidence(np.linspace(1, 0.5, 30))
    assert (np.diff(within) <= 0).all()
    assert ((within >= 0) & (within <= 1)).all()


def test_a_threshold_is_where_the_false_share_is_met(fitted):
    calibration = fitted[2]
    cut = calibration.threshold(0.1)
    assert calibration.false_share([cut])[0] <= 0.1 < calibration.false_share([cut - 1e-3])[0]
    reference = 0.5
    cut = calibration.threshold(0.1, reference=reference)
    rest = [reference] * (calibration.reference_rank - 1)
    assert calibration.false_share([cut + 1e-5, *rest])[0] <= 0.1 < calibration.false_share([cut - 1e-3, *rest])[0]
    assert calibration.threshold(0.2) <= calibration.threshold(0.1) <= calibration.threshold(0.05)
    assert calibration.threshold(0.05, reference=0.8) > calibration.threshold(0.05, reference=0.5)


def test_a_query_like_nothing_in_the_collection_is_no_match(fitted):
    calibration = fitted[2]
    assert calibration.confidence([0.55] + [0.1] * 11)[0] < 0.5
    assert calibration.confidence([0.97] + [0.8] * 11)[0] > 0.9


def test_a_dense_neighbourhood_needs_a_higher_score(fitted):
    calibration = fitted[2]
    alone, crowded = [0.9] + [0.3] * 11, [0.9] + [0.89] * 11
    assert calibration.confidence(alone)[0] > 0.9 > 0.5 > calibration.confidence(crowded)[0]


def test_more_images_make_a_score_mean_less(fitted):
    calibration = fitted[2]
    score = [calibration.threshold(0.05)]
    shares = [calibration.false_share(score, n_gallery=n)[0] for n in (150, 1500, 15000)]
    assert shares == sorted(shares)
    assert shares[0] < shares[2]
    assert shares[1] == calibration.false_share(score)[0]


def test_it_depends_on_neither_the_order_of_images_nor_the_length_of_views():
    gallery = images(300)
    rows = np.arange(0, 300, 3)
    views = strengths_of(gallery[rows])
    plain = Calibration.fit(gallery, views, rows)
    order = np.random.default_rng(0).permutation(300)
    moved = Calibration.fit(gallery[order], 7 * views, np.argsort(order)[rows])
    turned = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0].astype(np.float32)
    rotated = Calibration.fit(gallery @ turned, views @ turned, rows)
    for other in (moved, rotated):
        assert other.reference_rank == plain.reference_rank
        scores = np.linspace(0.3, 1, 15)[::-1]
        assert np.allclose(other.confidence(scores), plain.confidence(scores), atol=0.02)


def test_known_copies_are_no_false_hits():
    gallery = images(300)
    copied = np.concatenate([gallery, unit(gallery[:150] + 0.001)])
    rows = np.arange(0, 300, 2)
    views = strengths_of(gallery[rows])
    unaware = Calibration.fit(copied, views, rows)
    same = np.concatenate([np.arange(300), np.arange(150)])
    aware = Calibration.fit(copied, views, rows, same=same)
    assert unaware.threshold(0.05) == np.inf
    assert aware.threshold(0.05) < 1


def test_more_queries_without_a_match_lower_the_confidence():
    gallery = images(300)
    rows = np.arange(100)
    few, many = (Calibration.fit(gallery, strengths_of(gallery[rows]), rows, prior=prior) for prior in (0.9, 0.1))
    assert few.confidence([0.9])[0] >= many.confidence([0.9])[0]
    assert few.threshold(0.05) < many.threshold(0.05)


def test_where_all_images_are_equal_no_match_is_good():
    gallery = np.ones((40, 8), np.float32) / np.sqrt(8)
    calibration = Calibration.fit(gallery, np.repeat(gallery[:30, None], 2, axis=1), range(30))
    assert calibration.threshold(0.05) == np.inf
    assert calibration.confidence([1.0])[0] < 0.05
    assert calibration.false_share([1.0, 1.0]).tolist() == [1.0, 1.0]


def test_views_that_are_never_found_give_no_good_match():
    gallery = images(200)
    random = np.random.default_rng(5).standard_normal((50, 4, 24))
    calibration = Calibration.fit(gallery, random, range(50))
    assert calibration.threshold(0.05) == np.inf
    assert calibration.confidence([0.99, 0.2, 0.1]).max() < 0.5


def test_a_view_of_one_colour_and_missing_hits_are_no_match():
    gallery = images(60)
    views = strengths_of(gallery[:40])
    views[0] = 0
    calibration = Calibration.fit(gallery, views, range(40))
    assert calibration.confidence([-np.inf, -np.inf]).tolist() == [0.0, 0.0]
    assert calibration.confidence([[0.95, *[-np.inf] * 11]]).shape == (1, 12)
    assert np.isfinite(calibration.confidence([0.95, *[-np.inf] * 11])).all()


def test_json_gives_the_same_calibration(fitted):
    calibration = fitted[2]
    text = calibration.to_json()
    assert len(text) < 100_000
    again = Calibration.from_json(text)
    assert again == calibration
    scores = np.linspace(1, 0, 12)
    assert again.confidence(scores).tolist() == calibration.confidence(scores).tolist()


def changed(text: str, **entries) -> str:
    return json.dumps({**json.loads(text), **entries})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-3], "not valid JSON"),
        (lambda text: "[]", "is \\[\\], not an object"),
        (lambda text: changed(text, format=9), "format 9"),
        (lambda text: changed(text, prior=2.0), "contradicts itself"),
        (lambda text: changed(text, prior=float("nan")), "not valid JSON"),
        (lambda text: changed(text, relative=None), "contradicts itself"),
        (
            lambda text: changed(text, flat={"knots": [1.0], "absent": [0.5, 0.1], "right": [1], "wrong": [0]}),
            "lengths",
        ),
        (lambda text: changed(text, flat={"knots": [1], "absent": [1.5], "right": [1], "wrong": [0]}), "not in order"),
        (lambda text: changed(text, flat={"knots": ["1"], "absent": [0], "right": [1], "wrong": [0]}), "a number"),
        (lambda text: changed(text, flat={"knots": [], "absent": [], "right": [], "wrong": []}), "lengths"),
    ],
)
def test_a_damaged_calibration_is_refused(fitted, damage, reason):
    with pytest.raises(ClipAlignError, match=reason) as caught:
        Calibration.from_json(damage(fitted[2].to_json()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"embeddings": np.eye(1, 8)}, "1 sampled images of 1|there are 1 items"),
        ({"rows": range(10), "views": np.ones((10, 2, 8))}, "10 sampled images of 40 are too few"),
        ({"views": np.ones((30, 2, 7))}, "views have shape"),
        ({"views": np.ones((29, 2, 8))}, "views have shape"),
        ({"views": np.full((30, 2, 8), np.nan)}, "NaN"),
        ({"rows": [0] * 30}, "twice"),
        ({"rows": range(20, 50)}, "there are 40 items"),
        ({"same": [1, 2]}, "same has shape"),
        ({"prior": 1.0}, "prior"),
        ({"ranks": (0,)}, "ranks"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(arguments, reason):
    given = {"embeddings": images(40, 8), "views": np.ones((30, 2, 8)), "rows": range(30)}
    with pytest.raises(ClipAlignError, match=reason):
        Calibration.fit(**{**given, **arguments})


def test_scores_that_are_none_are_refused(fitted):
    calibration = fitted[2]
    for scores in ([np.nan], 0.5, np.zeros((1, 1, 1))):
        with pytest.raises(ClipAlignError, match="scores"):
            calibration.confidence(scores)
    for fdr in (0, 1, float("nan")):
        with pytest.raises(ClipAlignError, match="fdr"):
            calibration.threshold(fdr)


def test_isotonic_shares_are_those_of_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    random = np.random.default_rng(0)
    right, false = random.random(40), random.random(40)
    shares = right / (right + false)
    expected = IsotonicRegression().fit(np.arange(40), shares, right + false).predict(np.arange(40))
    assert np.allclose(isotonic(right, false), expected)
    assert isotonic(np.zeros(3), np.zeros(3)).tolist() == [0, 0, 0]


def test_tails_are_equal_by_their_numbers():
    lists = {"knots": [0.1, 0.5], "absent": [1.0, 0.5], "right": [0.5, 0.4], "wrong": [0.5, 0.0]}
    tails = Tails.from_dict(lists)
    assert tails == Tails.from_dict(tails.to_dict())
    assert tails != Tails.from_dict({**lists, "wrong": [0.5, 0.1]})
    assert tails.lowest(0.6, 0.5) == 0.5
