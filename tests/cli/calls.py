"""How tests call the command line."""

from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app


def call(*arguments, expect=0, given=None):
    """What a command prints; its error, if it is explained."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)
    if isinstance(result.exception, ClipAlignError):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output
