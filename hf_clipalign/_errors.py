"""The error that a user can do something about."""

from __future__ import annotations


class ClipAlignError(ValueError):
    """Bad input: the message names the culprit and the way out. The command line prints it without a traceback.

    Example:
        ```python
        >>> from hf_clipalign import ClipAlignError
        >>> from hf_clipalign.backbones import load_model
        >>> try:
        ...     load_model("no-such-folder/")
        ... except ClipAlignError as error:
        ...     print(error)
        cannot load the model 'no-such-folder/': ...
        ```
    """
