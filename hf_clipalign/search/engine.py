"""Answers to queries: resolve, compare, drop what may not be found, and name the files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.search.answers.calibrating import GROWN
from hf_clipalign.search.answers.collection import Collection
from hf_clipalign.search.answers.filters import Filter
from hf_clipalign.search.answers.hits import NO_MATCH, STANDS_OUT, Answer, Hit
from hf_clipalign.search.answers.vectors import AskedQuery, ask
from hf_clipalign.search.answers.word_null import WordNull
from hf_clipalign.search.calibration import FEWEST_IMAGES, Calibration
from hf_clipalign.search.heads import RAW
from hf_clipalign.search.query import Query
from hf_clipalign.search.sidecars.choice import neighbours

_QUERIES_PER_PASS = 1000
_SAME = 1 - 2e-6
"""The cosine of equal embeddings, within rounding: to the model the images are the same, whatever a sample says."""


def search(
    collection: Collection,
    queries: Sequence[Query],
    *,
    where: Any = None,
    top_k: int = 8,
    offset: int = 0,
    min_confidence: float | None = None,
    include_self: bool = False,
    strict: bool = True,
) -> list[Answer]:
    """The images of a collection that fit each query best.

    Args:
        collection (`Collection`): an `ImageIndex`.
        queries (`Sequence[Query]`): what to look for; 1,000 at a time share one pass over the collection, which is one
            matrix product for each block of images.
        where (`Filter` or `Mapping`, *optional*): which files may be found.
        top_k (`int`, *optional*, defaults to `8`): the most hits of a query.
        offset (`int`, *optional*, defaults to `0`): how many of the best to leave out, for the next page.
        min_confidence (`float`, *optional*): leave out hits whose confidence is below, between 0 and 1; see `Hit`.
        include_self (`bool`, *optional*, defaults to `False`): let a file of the collection find itself.
        strict (`bool`, *optional*, defaults to `True`): raise for a query with an image that cannot be read, or whose
            parts cancel one another; else its answer is empty, with a note why, and all others are given.

    Returns:
        `list[Answer]`: one for each query; an empty one says why.

    Raises:
        `ClipAlignError`: see `ask` and `Filter`; a confidence is asked for that the collection cannot give.

    Example:
        ```python
        >>> from hf_clipalign.search import ImageIndex, Query, search
        >>> index = ImageIndex.open("photos.index")
        >>> answers = search(index, [Query.of(like="cat/1.png"), Query.of(like="cat/2.png")], top_k=3)
        >>> [len(answer) for answer in answers]
        [3, 3]
        ```
    """
    check_integer("top_k", top_k)
    check_integer("offset", offset, 0)
    if min_confidence is not None:
        check_number("min_confidence", min_confidence, "a number from 0 to 1", least=0, most=1)
    condition = Filter.of(where)
    if len(collection.files.names) == 0:
        return [Answer([], str(query), note=f"{NO_MATCH}: the index holds no images.") for query in queries]
    kept = None if condition.is_empty else condition.mask(collection.files)
    wish = _Wish(kept, offset, offset + top_k, min_confidence, include_self)
    passes = [queries[start : start + _QUERIES_PER_PASS] for start in range(0, len(queries), _QUERIES_PER_PASS)]
    return [answer for part in passes for answer in _of_all_heads(collection, ask(collection, part, strict), wish)]


def _of_all_heads(collection: Collection, asked: Sequence[AskedQuery], wish: _Wish) -> list[Answer]:
    answers = {
        place: Answer([], str(one.query), one.head, note=one.problem) for place, one in enumerate(asked) if one.problem
    }
    for head in sorted({one.head for one in asked if not one.problem}):
        places = [place for place, one in enumerate(asked) if one.head == head and not one.problem]
        answered = _answers(collection, head, [asked[place] for place in places], wish)
        answers.update(zip(places, answered, strict=True))
    return [answers[place] for place in range(len(asked))]


class _Wish(NamedTuple):
    """Which files may be found, which of the ranks are shown, and what is left out."""

    kept: NDArray[np.bool_] | None
    start: int
    stop: int
    min_confidence: float | None
    include_self: bool


def _answers(collection: Collection, head: str, asked: Sequence[AskedQuery], wish: _Wish) -> list[Answer]:
    """Queries that one head answers."""
    allowed = None
    if wish.kept is not None:
        allowed = np.zeros(len(collection.embeddings(head)), bool)
        allowed[collection.files.images[wish.kept]] = True
    more = 0 if wish.include_self else max(len(one.rows) for one in asked)
    confidence = _Confidence(collection, head)
    depth = max(wish.stop, confidence.depth)
    n_searched = max(1, len(collection.embeddings(head)) if allowed is None else int(allowed.sum()))
    found = neighbours(collection, head, np.stack([one.vector for one in asked]), depth + more, allowed)
    rarities = confidence.of_words(asked, found.neighbours.scores)
    answers = []
    for place, (one, rows, scores) in enumerate(zip(asked, *found.neighbours, strict=True)):
        hidden = {-1} if wish.include_self else {-1, *one.rows}
        ranked = [(int(row), float(score)) for row, score in zip(rows, scores, strict=True) if row not in hidden]
        confidences = rarities.get(place)
        if confidences is None:
            confidences = confidence.of_image(one, [score for _, score in ranked], n_searched)
        hits = _hits(collection, one, ranked[: wish.stop], wish, confidences)
        stale = "" if confidences is None else confidence.staleness(place in rarities)
        note = " ".join(filter(None, [found.note, stale, "" if hits else _why_none(wish, one)]))
        measure = STANDS_OUT if place in rarities else "confidence"
        answers.append(Answer(hits, str(one.query), head, found.method, note, measure))
    return answers


def _hits(
    collection: Collection,
    asked: AskedQuery,
    ranked: Sequence[tuple[int, float]],
    wish: _Wish,
    confidences: list[float] | None,
) -> list[Hit]:
    files = collection.files
    if wish.min_confidence is not None and confidences is None:
        raise ClipAlignError(_no_confidence(collection, asked))
    chances: Sequence[float | None] = [None] * len(ranked) if confidences is None else confidences[: len(ranked)]
    least = wish.min_confidence
    shown = [
        (row, score, chance)
        for (row, score), chance in zip(ranked, chances, strict=True)
        if least is None or (chance is not None and chance >= least)
    ]
    hits = []
    for row, score, confidence in shown[wish.start :]:
        paths = [files.path(i) for i in files.of_image(row) if wish.kept is None or wish.kept[i]]
        hits.append(Hit(paths[0], score, confidence, asked.head, tuple(paths[1:])))
    return hits


def confidences_of(calibration: Calibration, scores: NDArray[np.float32], n_searched: int | None) -> list[float]:
    """What a calibration says of the best scores of one query; 1 for an embedding that equals the query's.

    Args:
        calibration (`Calibration`): of the collection and head.
        scores (`np.ndarray [K]`): descending.
        n_searched (`int`, *optional*): how many images were searched, if other than the calibration's.
    """
    return np.where(scores >= _SAME, 1.0, calibration.confidence(scores, n_searched)).tolist()


class _Confidence:
    """What is known of the scores of a head: of one image by its calibration, of words by unrelated texts."""

    def __init__(self, collection: Collection, head: str) -> None:
        self.calibration: Calibration | None = getattr(collection, "calibration", lambda head: None)(head)
        self.null: WordNull | None = getattr(collection, "word_null", lambda: None)() if head == RAW else None
        self.embeddings = collection.embeddings(head)

    @property
    def depth(self) -> int:
        """How many hits of a query it reads."""
        return 0 if self.calibration is None else self.calibration.reference_rank

    def staleness(self, is_of_words: bool) -> str:
        """What to say where it was measured on far fewer images."""
        measured = getattr(self.null if is_of_words else self.calibration, "n_gallery", None)
        if measured is None or len(self.embeddings) <= GROWN * measured:
            return ""
        python = "index.measure_words()" if is_of_words else "index.calibrate()"
        return (
            f"The confidence was measured when the index held {counted(measured, 'image')}: run `clipalign index` on "
            f"it, or {python}."
        )

    def of_words(self, asked: Sequence[AskedQuery], scores: NDArray[np.float32]) -> dict[int, list[float]]:
        """For each hit of queries by words the share of unrelated texts that stand out less, by place of the query."""
        places = [place for place, one in enumerate(asked) if one.query.is_single and not one.query.is_visual]
        if self.null is None or not places:
            return {}
        texts = np.stack([asked[place].vector for place in places])
        found = self.null.rarity_of_hits(self.embeddings, texts, scores[places])
        return dict(zip(places, found.tolist(), strict=True))

    def of_image(self, asked: AskedQuery, scores: Sequence[float], n_searched: int) -> list[float] | None:
        """Probability of a true match for each score; None for combined queries, whose scores have another scale."""
        if self.calibration is None or not (asked.query.is_single and asked.query.is_visual):
            return None
        return confidences_of(self.calibration, np.asarray(scores, np.float32), n_searched)


def _no_confidence(collection: Collection, asked: AskedQuery) -> str:
    if not asked.query.is_single:
        return (
            f"min_confidence is for queries by one image or by words, not for {asked.query}: leave it out, scores of "
            "combined queries have no confidence."
        )
    n_images = len(collection.embeddings(asked.head))
    if n_images < FEWEST_IMAGES:
        return (
            f"the index holds {counted(n_images, 'image')}, too few for a confidence, which takes {FEWEST_IMAGES}: "
            "leave out min_confidence."
        )
    return "the index has no calibration, which min_confidence needs: run `clipalign index` on it again."


def _why_none(wish: _Wish, asked: AskedQuery) -> str:
    if wish.kept is not None and not wish.kept.any():
        return f"{NO_MATCH}: no file meets the conditions."
    if wish.min_confidence is not None and asked.query.is_visual:
        return f"{NO_MATCH}: no image reaches a confidence of {100 * wish.min_confidence:g} %."
    if wish.min_confidence is not None:
        share = 100 * (1 - wish.min_confidence)
        return f"{NO_MATCH}: more than {share:.3g} % of unrelated texts find an image that stands out as much."
    if asked.rows and not wish.include_self and not wish.start:
        return f"{NO_MATCH}: there is no other image."
    if wish.start:
        return f"{NO_MATCH}: there {'is' if wish.start == 1 else 'are'} no more than {counted(wish.start, 'image')}."
    return f"{NO_MATCH}."


class Searching:
    """The method `search` of an index."""

    def search(
        self,
        text: Any = None,
        *,
        image: Any = None,
        like: Any = None,
        unlike: Any = None,
        query: Any = None,
        where: Any = None,
        top_k: int = 8,
        offset: int = 0,
        min_confidence: float | None = None,
        include_self: bool = False,
    ) -> Answer:
        """The images that fit words and images best.

        Images alone are compared by the aligned head, if there is one; words, and words with images, by the raw one.
        `hf_clipalign.search.search` answers several queries in one pass.

        Args:
            text (`str` or list of `str`, *optional*): words, taken as they are.
            image (*optional*): an image as `read_image` takes it, or a list of them.
            like (`str` or list of `str`, *optional*): files of the index, by path or name.
            unlike (*optional*): what hits should be unlike: words, or images and names that end like an image.
            query (`str` or `Query`, *optional*): instead of these: a line for `Query.parse`, such as
                `'"red car" - "toy" + photo.jpg'`.
            where (`Filter` or `dict`, *optional*): which files may be found; see `Filter`.
            top_k (`int`, *optional*, defaults to `8`): the most hits.
            offset (`int`, *optional*, defaults to `0`): how many of the best to leave out.
            min_confidence (`float`, *optional*): leave out hits below, between 0 and 1.
            include_self (`bool`, *optional*, defaults to `False`): let a file of the index find itself.

        Returns:
            `Answer`: a list of `Hit`, best first; an empty one says why in its `note`.

        Raises:
            `ClipAlignError`: an empty query, a text beyond the model's context, an image that cannot be read.
        """
        if query is None:
            query = Query.of(text, image, like, unlike)
        wishes = {"top_k": top_k, "offset": offset, "min_confidence": min_confidence, "include_self": include_self}
        collection = cast(Collection, self)
        asked = query if isinstance(query, Query) else Query.parse(query, collection.files)
        return search(collection, [asked], where=where, **wishes)[0]  # type: ignore[arg-type]
