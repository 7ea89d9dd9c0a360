"""What the processes of a run tell each other, with the messages themselves replaced."""

from __future__ import annotations

from typing import Any

import pytest
from torch import distributed

from hf_clipalign import ClipAlignError
from hf_clipalign.features.ranks import Ranks


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What process 0 has sent last; the others receive it."""
    message: list[Any] = []

    def broadcast(objects: list[Any], src: int, group: Any) -> None:
        assert (src, group) == (0, "group")
        if message:
            objects[:] = message
        else:
            message[:] = objects

    monkeypatch.setattr(distributed, "broadcast_object_list", broadcast)
    return message


def test_every_process_gets_what_the_first_returns(sent: list[Any]) -> None:
    def never() -> int:
        raise AssertionError("only the first process works")

    assert Ranks(0, 2, "group").from_first(lambda: 7) == 7
    assert Ranks(1, 2, "group").from_first(never) == 7
    assert Ranks().from_first(lambda: 8) == 8


def test_every_process_raises_what_the_first_raises(sent: list[Any]) -> None:
    def fails() -> int:
        raise ClipAlignError("the disk is full")

    for index in (0, 1):
        with pytest.raises(ClipAlignError, match="the disk is full"):
            Ranks(index, 2, "group").from_first(fails if index == 0 else lambda: 7)
    with pytest.raises(ClipAlignError, match="the disk is full"):
        Ranks().from_first(fails)


def test_values_are_gathered_in_the_order_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(values: list[Any], value: Any, group: Any) -> None:
        values[:] = ["of process 0", value, "of process 2"]

    monkeypatch.setattr(distributed, "all_gather_object", gather)
    assert Ranks(1, 3, "group").gather("mine") == ["of process 0", "mine", "of process 2"]
    assert Ranks().gather("mine") == ["mine"]
