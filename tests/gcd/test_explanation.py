"""Concept profiles of classes by hand, classes without images among them, and what contributions are made of."""

from __future__ import annotations

import math

import pytest
import torch

from hf_clipalign.gcd import concept_contributions, top_concepts
from hf_clipalign.gcd.explanation import ProfileSums


def test_profiles_are_means_over_the_images_of_a_class() -> None:
    sums = ProfileSums(3, 2)
    sums.add(torch.tensor([[0.8, 0.2], [0.4, 0.6]]), torch.tensor([0, 0]))
    sums.add(torch.tensor([[0.1, 0.9]]), torch.tensor([2]))
    torch.testing.assert_close(sums.profiles, torch.tensor([[0.6, 0.4], [0.0, 0.0], [0.1, 0.9]]))
    torch.testing.assert_close(sums.overall, torch.tensor([1.3 / 3, 1.7 / 3]))


def test_without_images_profiles_are_zero() -> None:
    sums = ProfileSums(2, 3)
    assert torch.equal(sums.profiles, torch.zeros(2, 3))
    assert torch.equal(sums.overall, torch.zeros(3))


def test_contributions_are_the_terms_of_the_distance() -> None:
    profiles, overall = torch.tensor([[0.8, 0.2], [0.0, 0.0]]), torch.tensor([0.5, 0.5])
    expected = [[0.8 * math.log(1.6), 0.2 * math.log(0.4)], [0, 0]]
    torch.testing.assert_close(concept_contributions(profiles, overall), torch.tensor(expected))
    image = torch.tensor([[0.1, 0.9], [0.5, 0.5]])
    expected = [[0.1 * math.log(1.6), 0.9 * math.log(0.4)], [0, 0]]
    torch.testing.assert_close(concept_contributions(profiles, overall, image), torch.tensor(expected))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_only_concepts_that_speak_for_a_class_are_named(k: int) -> None:
    contributions = torch.tensor([[0.5, 0.0, 0.5], [-1.0, 0.25, 1.0]])
    named = [[("a", 0.5), ("c", 0.5)], [("c", 1.0), ("b", 0.25)]]
    assert top_concepts(contributions, list("abc"), k) == [row[:k] for row in named]
