"""The end of a run of several processes."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import cast
from weakref import WeakSet

import torch.distributed as dist
from torch import nn
from transformers import Trainer

_TRAINERS: WeakSet[Trainer] = WeakSet()


def leave_at_exit(trainer: Trainer) -> None:
    """Has the process leave its group when the interpreter exits; nothing for a run of one process.

    A trainer's wrapped model keeps gloo's threads alive, `destroy_process_group` or not. One that still lets go of a
    tensor while the interpreter is taken down ends the process with SIGABRT after all work is done.

    Args:
        trainer (`Trainer`): what may keep the group alive.
    """
    if trainer.args.world_size < 2:
        return
    if not _TRAINERS:
        atexit.unregister(_leave)
        atexit.register(_leave)
    _TRAINERS.add(trainer)


def _leave() -> None:
    """Lets go of the group, the wrapped models first.

    After an uncaught exception others may still wait in it, and it is left. An exit by `sys.exit` cannot be told from
    the end of the work: the group is let go of then too.
    """
    if hasattr(sys, "last_value"):
        return
    for trainer in _TRAINERS:
        trainer.model_wrapped = cast(nn.Module, trainer.model)
        trainer.accelerator.free_memory()
    gc.collect()
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()
