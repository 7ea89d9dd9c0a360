"""Which concepts set a class apart, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.gcd.similarities import image_blocks, unit_texts

_FLAT, _NARROW, _UNSURE = 1 / 3, 2 / 3, 0.2
_BLOCK = 256


class ProfileSums:
    """Mean concept distributions of classes, added up batch by batch.

    Args:
        n_classes (`int`): K.
        n_concepts (`int`): C.
        device (`torch.device`, *optional*): where the sums are kept.
    """

    def __init__(self, n_classes: int, n_concepts: int, device: torch.device | None = None):
        self._totals = torch.zeros(n_classes, n_concepts, device=device)
        self._counts = torch.zeros(n_classes, device=device)

    def add(self, probabilities: Tensor, classes: Tensor) -> None:
        """Adds images.

        Args:
            probabilities (`Tensor [N, C]`): their concept distributions.
            classes (`LongTensor [N]`): their classes.
        """
        self._totals.index_add_(0, classes, probabilities.float())
        self._counts += torch.bincount(classes, minlength=len(self._counts))

    @property
    def profiles(self) -> Tensor:
        """Mean distribution of every class, `[K, C]`; zero rows for classes without an image."""
        return self._totals / self._counts.clamp(min=1)[:, None]

    @property
    def overall(self) -> Tensor:
        """Mean distribution of all images, `[C]`."""
        return self._totals.sum(dim=0) / self._counts.sum().clamp(min=1)


def concept_contributions(profiles: Tensor, overall: Tensor, weights: Tensor | None = None) -> Tensor:
    """How much each concept sets a class apart from all images: p(c | class) · log(p(c | class) / p(c)).

    The contributions of a class sum to the Kullback-Leibler distance of its mean concept distribution from that of all
    images: a concept counts if it is both frequent in the class and rarer elsewhere. With `weights`, p(c | image)
    takes the place of the first factor: the sum is then the evidence that the image has for its class.

    Args:
        profiles (`Tensor [K, C]`): mean concept distributions of classes.
        overall (`Tensor [C]`): that of all images.
        weights (`Tensor [K, C]`, *optional*): concept distributions of images, one for each row of `profiles`.

    Returns:
        `Tensor [K, C]`: 0 for the concepts of a class without images.

    Example:
        ```python
        >>> concept_contributions(torch.tensor([[0.8, 0.2]]), torch.tensor([0.5, 0.5]))
        tensor([[ 0.3760, -0.1833]])
        ```
    """
    if profiles.shape[-1:] != overall.shape:
        raise ClipAlignError(
            f"profiles over {profiles.shape[-1]} concepts do not go with {len(overall)} concepts overall"
        )
    smallest = torch.finfo(torch.float32).tiny
    ratios = profiles.float().clamp(min=smallest).log() - overall.float().clamp(min=smallest).log()
    factors = profiles if weights is None else weights
    return torch.where(profiles.sum(dim=-1, keepdim=True) > 0, factors.float() * ratios, 0.0)


def top_concepts(contributions: Tensor, concepts: Sequence[str], k: int = 3) -> list[list[tuple[str, float]]]:
    """The k concepts with the highest positive contributions, best first; equal ones in the dictionary's order.

    Args:
        contributions (`Tensor [K, C]`): see `concept_contributions`.
        concepts (`Sequence[str]`): the C concepts.
        k (`int`, *optional*, defaults to 3): how many at most.

    Returns:
        `list` of K lists of (concept, contribution).

    Example:
        ```python
        >>> from hf_clipalign.gcd import top_concepts
        >>> top_concepts(torch.tensor([[0.25, -0.5, 0.5]]), ["fur", "wheel", "whiskers"], k=2)
        [[('whiskers', 0.5), ('fur', 0.25)]]
        ```
    """
    concepts = as_texts(concepts, "concepts")
    values, order = contributions.cpu().sort(dim=-1, descending=True, stable=True)
    return [
        [(concepts[index], value) for index, value in zip(indices, row, strict=True) if value > 0]
        for indices, row in zip(order[:, :k].tolist(), values[:, :k].tolist(), strict=True)
    ]


def concept_labels(names: Sequence[str], concepts: Sequence[Sequence[str]], taken: Sequence[str], k: int) -> list[str]:
    """Readable names of classes, all different: each is called by its first k concepts.

    Where that name is taken, one concept more tells the classes apart, or else the class's own name.

    Args:
        names (`Sequence[str]`): own names of the classes, such as "novel-1"; kept by a class without concepts.
        concepts (`Sequence[Sequence[str]]`): of each class, strongest first.
        taken (`Sequence[str]`): names of other classes.
        k (`int`): concepts per name.

    Returns:
        `list[str]`: one for each of `names`.

    Example:
        ```python
        >>> concept_labels(["novel-1", "novel-2"], [["cat", "red"], ["cat", "green"]], ["dog"], k=1)
        ['cat', 'cat, green']
        ```
    """
    used, labels = set(taken), []
    for name, found in zip(names, concepts, strict=True):
        short, longer = (", ".join(found[:count]) for count in (k, k + 1))
        label = next((label for label in (short, longer) if label not in used), f"{short} ({name})")
        labels.append(label if found else name)
        used.add(labels[-1])
    return labels


@dataclass(frozen=True)
class ConceptContrast:
    """How clearly a model's similarities to concepts tell images apart.

    Args:
        ratio (`float`): standard deviation of a concept's cosines from image to image (mean over the concepts),
            divided by that of an image's cosines from concept to concept (mean over the images).
        confidence (`float`): probability of the best concept at the temperature, mean over the images.

    Example:
        ```python
        >>> ConceptContrast(ratio=0.56, confidence=0.06).is_flat
        True
        ```
    """

    ratio: float
    confidence: float

    @property
    def is_flat(self) -> bool:
        """Whether the same concepts come first for all images: a ratio below 1/3, or below 2/3 with confidence < 0.2.

        Measured with the two built-in models: images of the kinds they were trained on have ratios of 0.73 to 0.84,
        photographs, which they do not know, 0.51 to 0.60, noise and plain colours 0.09 to 0.44. Images that are all of
        one kind have low ratios (0.39 to 0.77), too; with a dictionary of what they show confidences of 0.19 to 0.48,
        photographs of one kind 0.12 to 0.24.
        """
        return self.ratio < _FLAT or (self.ratio < _NARROW and self.confidence < _UNSURE)


def concept_contrast(
    image_features: Any, text_features: Any, concept_names: Sequence[str], temperature: float = 0.01
) -> ConceptContrast:
    """Measures how clearly concepts tell images apart: whether the model knows what it looks at. No labels are needed.

    Args:
        image_features (`Tensor` or array `[N, d]`, or an iterable of blocks of it): of the images.
        text_features (`Tensor` or array `[C, d]`): of the concepts, from the same model.
        concept_names (`Sequence[str]`): the concepts, for errors.
        temperature (`float`, *optional*, defaults to 0.01): of the distribution over the concepts.

    Returns:
        `ConceptContrast`.

    Raises:
        `ClipAlignError`: features that are NaN, zero or of other sizes; fewer than two images.

    Example:
        ```python
        >>> contrast = concept_contrast(torch.eye(3), torch.eye(3), ["ant", "bee", "cat"])
        >>> round(contrast.ratio, 2), round(contrast.confidence, 2), contrast.is_flat
        (1.0, 1.0, False)
        ```
    """
    texts = unit_texts(text_features, concept_names)
    n, within, confidence = 0, 0.0, 0.0
    first: Any = None
    sums, squares = torch.zeros(len(texts), dtype=torch.float64), torch.zeros(len(texts), dtype=torch.float64)
    for block in image_blocks(image_features, texts, _BLOCK):
        cosines = block @ texts.T
        first = cosines[:1] if first is None else first
        centred = (cosines - first).cpu()  # so that squares lose no digits
        sums, squares, n = sums + centred.sum(dim=0), squares + centred.square().sum(dim=0), n + len(block)
        within += float(cosines.std(dim=1).sum())
        confidence += float((cosines / temperature).softmax(dim=1).amax(dim=1).sum())
    if n < 2:
        raise ClipAlignError(f"{n} images cannot be compared with each other: give two or more")
    between = ((squares - sums.square() / n).clamp(min=0) / (n - 1)).sqrt().mean()
    return ConceptContrast(float(between) / (within / n) if within else 0.0, confidence / n)
