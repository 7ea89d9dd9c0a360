"""The `clipalign` command."""

from __future__ import annotations

import codecs
import io
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
        _print_any_name()
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

    from hf_clipalign._checks.quoting import printable
    from hf_clipalign._errors import ClipAlignError
    from hf_clipalign.cli.app import app

    try:
        app()
    except ClipAlignError as error:
        message = Text.assemble(("error:", "bold red"), f" {printable(str(error))}")
        Console(stderr=True, highlight=False).print(message, soft_wrap=True)
        sys.exit(1)


def _print_any_name() -> None:
    """Lets output take names that are not UTF-8, and characters that the terminal's encoding lacks, as `\\xe9`."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        codes = [ord(character) for character in error.object[error.start : error.end]]
        escapes = (f"\\x{code & 0xFF:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(chr(code))[1:-1] for code in codes)
        return "".join(escapes), error.end

    codecs.register_error("escaped", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="escaped")


def _end(number: int, _: Any) -> None:
    """Leaves by an exception, so that worker processes are ended and locks are given back."""
    sys.exit(128 + number)
