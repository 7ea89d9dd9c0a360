"""The end of a run of several processes."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Any
from weakref import WeakSet

_TRAINERS: WeakSet[Any] = WeakSet()


def leave_at_exit(trainer: Any = None) -> None:
    """Has this process, one of several, leave its gloo group when the interpreter exits.

    What still refers to the group, a trainer's wrapped model above all, keeps gloo's threads alive,
    `destroy_process_group` or not. One that lets go of a tensor while the interpreter is taken down ends the process
    with SIGABRT after all work is done.

    Args:
        trainer (`transformers.Trainer`, *optional*): one whose wrapped model may keep the group alive.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)
    if trainer is not None:
        _TRAINERS.add(trainer)


def _leave() -> None:
    """Lets go of the group, the wrapped models first; after an exception others may still wait in it, and it is left.

    `sys.exit` with a message is no exception here: the group goes, and processes that wait in it end with an error.
    """
    if hasattr(sys, "last_value"):
        return
    import torch.distributed as dist

    for trainer in _TRAINERS:
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()
    gc.collect()
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()
