"""The `clipalign` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Runs the command line.

    Exit codes: 1 for bad input (one clear line), 2 for wrong usage, 3 for an answer that is
    written but not worth having (`clipalign discover`), 130 for Ctrl-C, 143 for SIGTERM.
    """
    try:
        signal.signal(signal.SIGTERM, _end)
        if not sys.stderr.isatty():  # of transformers and huggingface_hub; our own look for themselves
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        _run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _run() -> None:
    from rich.console import Console
    from rich.text import Text

    from hf_clipalign._errors import ClipAlignError
    from hf_clipalign.cli.app import app

    try:
        app()
    except ClipAlignError as error:
        message = Text.assemble(("error:", "bold red"), f" {error}")
        Console(stderr=True, highlight=False).print(message, soft_wrap=True)
        sys.exit(1)


def _end(number: int, _: Any) -> None:
    """Leaves by an exception, so that worker processes are ended and locks are given back."""
    sys.exit(128 + number)
