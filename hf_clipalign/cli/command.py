"""The classes of all commands: earlier spellings, errors in the words of the command line, and what Ctrl-C leaves."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from typer.core import TyperCommand, TyperGroup

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.names import misplaced_model

_EARLIER_NAMES_OF_DATA = ("--data", "--dataset", "--images")
_OTHER_NAMES = {"num_workers": "workers"}
_LEADING_MINUS = re.compile(r"^-(?=\s*[\"“„”]|\s+\S|(?:\d+\.?\d*|\.\d+)\s*[*×])")
_MINUS_HINT = ". To subtract words, write --not toy, or all of the query behind --, as in -- -toy +car."
_ONLY_IN_PYTHON = re.compile(r",? or give \w+=(?=[.;,]|$)")
_CALL = r"\w[\w.]*\((?:[^()]|\([^()]*\))*\)"
_CALL_OR_COMMAND = re.compile(rf"{_CALL} or (?=`clipalign )|(?<=`),? or {_CALL}")
"""A call in Python beside the command that does the same; a backtick ends the command before it."""


class Command(TyperCommand):
    """Reads the data under their earlier option names, and lets errors name options instead of Python's arguments."""

    interrupted = "interrupted"
    """What Ctrl-C prints."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(parameter.param_type_name == "argument" and parameter.name == "data" for parameter in self.params):
            args = data_as_argument(args)
        if any(parameter.name == "model" and parameter.metavar == "MODEL" for parameter in self.params):
            self._refuse_model_as_argument(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClipAlignError as error:
            raise ClipAlignError(in_options(str(error), option_names(self.params))) from error

    def _refuse_model_as_argument(self, ctx: Any, args: Sequence[str]) -> None:
        """Says where the model goes, if one was written among the arguments; other mistakes are left to Typer."""
        ctx.allow_extra_args = True
        extra = super().parse_args(ctx, list(args))
        ctx.allow_extra_args = False
        arguments = [parameter for parameter in self.params if parameter.param_type_name == "argument"]
        given = [*(value for one in arguments for value in _listed(ctx.params[one.name])), *extra]
        takes_many = any(one.nargs != 1 for one in arguments)
        if ctx.params["model"] is not None or not (takes_many or len(given) == len(arguments) + 1):
            return
        model = misplaced_model(given)
        if model is not None and not (takes_many and len(given) == 1):
            given.remove(model)
            raise ClipAlignError(f"{model!r} is a model: write {shlex.join([*given, '--model', model])}.")


def _listed(value: Any) -> list[str]:
    """The words of an argument, of which some take several."""
    return [str(part) for part in value or ()] if isinstance(value, (list, tuple, type(None))) else [str(value)]


class QueryCommand(Command):
    """Takes a line that begins with a minus for a query, `-"toy" + "red car"`, and not for options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, [_LEADING_MINUS.sub("−", argument) for argument in args])
        except Exception as error:
            # the class of errors has moved from click into Typer
            is_unknown = type(error).__name__ == "NoSuchOption"
            if is_unknown and not str(getattr(error, "option_name", "--")).startswith("--"):
                error.message += _MINUS_HINT  # type: ignore[attr-defined]
            raise


class ResumingCommand(Command):
    """A command that resumes what an earlier call has begun."""

    interrupted = "interrupted; run the same command again to resume"


class Commands(TyperGroup):
    """All commands: Ctrl-C becomes one line, where Typer prints none."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt:
            leave_interrupted(Command.interrupted)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            command = self.commands.get(ctx.invoked_subcommand)
            leave_interrupted(getattr(command, "interrupted", Command.interrupted))


def leave_interrupted(line: str) -> NoReturn:
    """Prints a line and exits as after Ctrl-C; a second Ctrl-C ends the process at once, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(line, file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def data_as_argument(arguments: Sequence[str]) -> list[str]:
    """`--data photos` and `--data=photos` as the positional `photos`."""
    kept = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in _EARLIER_NAMES_OF_DATA:
            kept.append(argument)
        elif equals:
            kept.append(value)
    return kept


def option_names(parameters: Iterable[Any]) -> dict[str, str]:
    """The option that sets each argument of Python's functions."""
    options = {
        parameter.name: max(parameter.opts, key=len)
        for parameter in parameters
        if parameter.param_type_name == "option" and parameter.name
    }
    return options | {name: options[own] for name, own in _OTHER_NAMES.items() if own in options}


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A message of the library with options where it names arguments.

    Args:
        message (`str`): The library's message.
        options (`Mapping[str, str]`): Option by name of the argument.

    Returns:
        `str`: the message for the command line.

    Example:
        ```python
        >>> in_options("n_tokens is 0: pass overwrite=True", {"n_tokens": "--n-tokens", "overwrite": "--overwrite"})
        '--n-tokens is 0: pass --overwrite'
        >>> in_options("mend it with `clipalign index idx --repair` or update(repair=True)", {"repair": "--repair"})
        'mend it with `clipalign index idx --repair`'
        ```
    """
    message = _CALL_OR_COMMAND.sub("", _ONLY_IN_PYTHON.sub("", message))
    for name, option in options.items():
        word = rf"(?<![\w\-/.'\"]){re.escape(name)}"
        message = re.sub(rf"{word}=(?:True\b|(?=[.;,)]|$))", option, message)
        message = re.sub(rf"`?{word}=(?=[^\s=])", f"{option} ", message)
        plain = word if "_" in name else rf"(?:^|(?<=: )){re.escape(name)}(?= is )"
        message = re.sub(rf"{plain}(?![\w=\-/'\"])", option, message)
    return message
