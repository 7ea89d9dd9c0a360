"""The `clipalign` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line. Exit codes: 1 for bad input (one clear line), 2 for wrong usage, 130 for Ctrl-C."""
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
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(130)
