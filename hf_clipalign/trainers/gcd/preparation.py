"""What a discovery starts with: the concepts that tell the images apart, and how many novel classes to look for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hf_clipalign.data import GCDSplit, extend_dictionary, fill
from hf_clipalign.gcd import ClassCountEstimate, SpectralFilterResult, estimate_n_classes, spectral_filter
from hf_clipalign.trainers.gcd.teacher import TeacherConcepts, teacher_concepts
from hf_clipalign.trainers.teacher import Teacher

logger = logging.getLogger(__name__)

_FEWEST_CLASSES = 2


def filter_concepts(
    split: GCDSplit,
    teacher: Teacher,
    dictionary: Sequence[str],
    template: str,
    *,
    filter_template: str | None = None,
    keep_all: bool = False,
    cache: str | Path | None = None,
) -> tuple[SpectralFilterResult, list[str], TeacherConcepts]:
    """Filters a dictionary, known class names added, by the teacher's similarities.

    Args:
        split (`GCDSplit`): the images and the known classes.
        teacher (`Teacher`): the bigger model.
        dictionary (`Sequence[str]`): concepts.
        template (`str`): their prompt in the training.
        filter_template (`str`, *optional*): another prompt for the filter, as in the published settings.
        keep_all (`bool`, *optional*, defaults to `False`): train with the whole dictionary.
        cache (`str` or `Path`, *optional*): see `teacher_concepts`.

    Returns:
        What the filter found, the concepts to train with, and the teacher's features of them and of the images.
    """
    names = extend_dictionary(dictionary, split.class_names)
    features = teacher_concepts(teacher, split.source, names, template, cache=cache)
    texts = features.texts
    if filter_template is not None and filter_template != template:
        texts = teacher.text_features(fill(filter_template, names)).cpu()
    found = spectral_filter(features.images, texts, names)
    if keep_all:
        return found, names, features
    return found, found.concepts, features.of_concepts(found.retained)


def count_novel(split: GCDSplit, features: Tensor, seed: int = 0) -> tuple[int, ClassCountEstimate]:
    """How many novel classes the labelled images speak for, and the estimate with its range.

    Where they speak for none, a warning says so and the estimate is taken (with one novel class beside a single known
    one, as there is nothing to tell apart otherwise).

    Args:
        split (`GCDSplit`): the images.
        features (`Tensor [N, d]`): the teacher's features of them.
        seed (`int`, *optional*, defaults to 0): of k-means.
    """
    estimate = estimate_n_classes(features, split.training_labels, split.labelled, seed=seed)
    n_novel = max(estimate.n_novel, _FEWEST_CLASSES - estimate.n_known)
    if not estimate.n_novel:
        logger.warning(
            "%s: the labelled images speak for no novel class beside the %d known ones; looking for %d. If you expect "
            "others, give their number",
            split.source.name,
            estimate.n_known,
            n_novel,
        )
    return n_novel, estimate
