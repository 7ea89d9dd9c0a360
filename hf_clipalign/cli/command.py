"""The class of all commands: earlier spellings of their arguments, and errors in the words of the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.names import misplaced_model

_EARLIER_NAMES_OF_DATA = ("--data", "--dataset", "--images")
_OTHER_NAMES = {"num_workers": "workers"}
_ONLY_IN_PYTHON = re.compile(r",? or give \w+=(?=[.;,]|$)")


class Command(TyperCommand):
    """Reads the data under their earlier option names, and lets errors name options instead of Python's arguments."""

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
        names = [parameter.name for parameter in self.params if parameter.param_type_name == "argument"]
        given = [*(ctx.params[name] for name in names), *extra]
        if len(given) != len(names) + 1 or ctx.params["model"] is not None:
            return
        if (model := misplaced_model(given)) is not None:
            given.remove(model)
            raise ClipAlignError(f"{model!r} is a model: write {shlex.join([*given, '--model', model])}.")


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
        ```
    """
    message = _ONLY_IN_PYTHON.sub("", message)
    for name, option in options.items():
        word = rf"(?<![\w\-/.'\"]){re.escape(name)}"
        message = re.sub(rf"{word}=(?:True\b|(?=[.;,)]|$))", option, message)
        message = re.sub(rf"`?{word}=(?=[^\s=])", f"{option} ", message)
        plain = word if "_" in name else rf"(?:^|(?<=: )){re.escape(name)}(?= is )"
        message = re.sub(rf"{plain}(?![\w=\-/'\"])", option, message)
    return message
