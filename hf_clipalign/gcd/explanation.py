"""Which concepts set a class apart, in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError


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
