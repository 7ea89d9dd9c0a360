"""The processes of one `torchrun` or `accelerate launch`, and what one of them does for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._processes import leave_at_exit

_T = TypeVar("_T")

_PATIENCE = timedelta(days=30)
"""How long processes wait for each other: the slowest one may take hours longer than the fastest."""


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run; without a launcher there is one.

    Args:
        index (`int`): number of this process, from 0.
        count (`int`): number of processes.
        group (*optional*): the `torch.distributed` group to talk in, None for one process.
    """

    index: int = 0
    count: int = 1
    group: Any = None

    @classmethod
    def current(cls) -> Ranks:
        """Joins the processes that a launcher has started, if there are several.

        They talk through gloo with a long timeout, whatever backend the default group has.
        """
        if not launched():
            return cls()
        from accelerate import PartialState
        from torch import distributed

        state = PartialState() if torch.cuda.is_available() else PartialState(cpu=True)
        if state.num_processes < 2:
            return cls()
        leave_at_exit()
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes, group)

    def from_first(self, work: Callable[[], _T]) -> _T:
        """What `work` returns in process 0, in every process; its `ClipAlignError` is raised in every process too."""
        if self.group is None:
            return work()
        from torch import distributed

        message: list[Any] = [None, None]
        if self.index == 0:
            try:
                message[0] = work()
            except ClipAlignError as error:
                message[1] = str(error)
        distributed.broadcast_object_list(message, src=0, group=self.group)
        if message[1] is not None:
            raise ClipAlignError(message[1])
        return message[0]

    def gather(self, value: _T) -> list[_T]:
        """The values of all processes, in every process; no process continues before all are here."""
        if self.group is None:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self.group)
        return values


def launched() -> bool:
    """Whether a launcher has started several processes, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_world_size() -> int:
    """How many processes of this run share the machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def leave_processes() -> None:
    """Waits for the other processes and takes leave, as the last thing that a program does; nothing for one."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
