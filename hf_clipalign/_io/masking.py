"""What of a command line, an environment or a text may be written or published: no secrets, no local paths."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = "…"
"""What stands in the place of a secret or a local path."""

_SECRET_NAME = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|credentials?|api[_-]?key|key|authorization"
    r"|(?<![a-z])(?:auth|pat|pwd))\d*"
)
_IS_SECRET_NAME = re.compile(rf"(?i){_SECRET_NAME}\Z|-t\Z")
_NAMED_SECRET = re.compile(
    rf"""(?ix)
    (?P<name> (?<![\w-]) -{{0,2}} (?<![\w.]) {_SECRET_NAME})
    (?P<between> \s*=\s* | ["']\s*[:=]\s*(?=["']) | (?<=\w)\s+(?=[^\s-]) )
    (?P<value> "[^"]*" | '[^']*' | [^\s"'`,;)}}]+)
    """
)
_TOKENS = re.compile(
    r"""(?x)(?<![A-Za-z0-9])(?:
    (?:hf|api_org)_[A-Za-z0-9]{16,}
    | hf_(?=[A-Za-z0-9]*[A-Z0-9])[A-Za-z0-9]{6,}
    | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w-]{16,}
    | sk-[\w-]{16,} | xox[abprs]-[\w-]{10,} | AKIA[0-9A-Z]{16} | AIza[\w-]{30,}
    | eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]+)?
    )"""
)
_CREDENTIALS = re.compile(r"(\b[A-Za-z][\w+.-]*://)[^\s/@'\"]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")

_URL = re.compile(r"(?i)\b(?!file:)[a-z][a-z0-9+.-]+://[^\s'\"`<>]*")
_START = r"""(?<![^\s"'`=(\[{,;:<>|])"""
_VARIABLE = r"(?: ~[\w.-]* | \$\w+ | \$\{\w+\} | %\w+% )"
_ROOT = rf"""(?: file: | {_VARIABLE}[/\\] | \.{{1,2}}[/\\] | [A-Za-z]:[/\\] | \\\\?\w | //?[^\s/"'`|)] )"""
_LOCAL_PATH = re.compile(
    rf"""(?ix) {_START} (?:
    (?P<quote>["']) {_ROOT} [^"']* (?P=quote)
    | {_ROOT} [^\s"'`<>|]*
    | (?:[\w.@+-]+[/\\]){{2,}} [\w.@+-]*
    | (?:[\w.@+-]+[/\\]) [\w.@+-]* \.[a-z]\w* (?![\w./\\-])
    | [\w.@+-]+ [/\\] [\w.@+-]+
    )"""
)
_MACHINE_FOLDERS = (
    r"(?:home|users|root|usr|var|opt|etc|tmp|mnt|media|srv|data|datasets|work|workspace|scratch|storage|private|volumes"
    r"|nfs|lustre|gpfs|content|kaggle)"
)
_CERTAIN_PATH = re.compile(
    rf"""(?ix) (?<![\w.~/\\-]) (?:
    file:/ | ~(?:[a-z_][\w.-]*)?[/\\] | \$\{{?home\b | %userprofile% | [a-z]:[/\\]\w\w | \\\\\w[\w.-]*\\
    | /{_MACHINE_FOLDERS}[/\\]
    )"""
)
_IS_ROOTED = re.compile(rf"(?ix){_ROOT}")
_ENDS_LIKE_A_FILE = re.compile(r"\.[A-Za-z]\w*~?\Z")
_TAKES_PATHS = re.compile(
    r"(?i)(?:^-o\Z|(?:^|[-_])(?:out|output|dir|folder|path|file|cache|log|logs)s?(?:[-_]dir)?\Z)"
)
_NUMBERS = re.compile(r"[\d.,/:e+-]+\Z")
_NAMED = re.compile(r"-*\w[\w.-]*=")
_WITH_COLON = re.compile(r"(-*\w[\w.-]*):\S")
_FOLDER_WORDS = frozenset(
    [
        "cache",
        "caches",
        "checkpoint",
        "checkpoints",
        "data",
        "dataset",
        "datasets",
        "embeddings",
        "features",
        "home",
        "images",
        "img",
        "labels",
        "media",
        "mnt",
        "model",
        "models",
        "out",
        "output",
        "outputs",
        "photos",
        "results",
        "run",
        "runs",
        "srv",
        "test",
        "tests",
        "tmp",
        "train",
        "user",
        "users",
        "val",
        "work",
    ]
)


def mask(text: str) -> str:
    """A text without secrets and local paths.

    A path in any spelling becomes `…`: absolute, relative, `~user/…`, of Windows, `file://…`; not even its last part
    is shown, as the names of medical data are those of people. Hub ids and addresses stay, without what logs in there.

    Args:
        text (`str`): for example a verdict, a note, a title.

    Returns:
        `str`: the text, otherwise unchanged.
    """
    parts, end = [], 0
    text = mask_secrets(text)
    for url in _URL.finditer(text):
        parts += [_LOCAL_PATH.sub(_hidden, text[end : url.start()]), url.group()]
        end = url.end()
    return "".join([*parts, _LOCAL_PATH.sub(_hidden, text[end:])])


def mask_certain_paths(text: str) -> str:
    """`mask` where a text has a path that cannot be anything else, such as `/home/…`, `C:\\…` or `~/…`.

    For texts whose slashes mean something else: names of classes (`/m/0k4j`), regular expressions, templates.

    Args:
        text (`str`): any text.
    """
    return mask(text) if _CERTAIN_PATH.search(text) else mask_secrets(text)


def mask_secrets(text: str) -> str:
    """A text without tokens, passwords and keys: by their shape, in addresses, and by the name before them.

    Args:
        text (`str`): any text.
    """
    text = _CREDENTIALS.sub(rf"\1{HIDDEN}@", _BEARER.sub(rf"\1 {HIDDEN}", text))
    return _TOKENS.sub(HIDDEN, _NAMED_SECRET.sub(_hidden_value, text))


def describe_run(command: str | Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """A command line as it may be shown: flags and values stay, secrets and paths become `…`.

    A script keeps its name. A value is a path if it has a slash and is no Hub id, ends like a file, or is there in the
    current folder.

    Args:
        command (`str` or `Sequence[str]`): a line, or its words such as `["python", *sys.argv]`.
        environment (`Mapping[str, str]`, *optional*): variables to show before it.

    Returns:
        `str`: one line; empty where quotes are left open, since paths cannot be recognised then.

    Example:
        ```python
        >>> describe_run("HF_TOKEN=x python jobs/train.py --data ../mrn123 --model me/clip --hub_token=y --lr 1e-3")
        'HF_TOKEN=… python train.py --data … --model me/clip --hub_token=… --lr 1e-3'
        ```
    """
    try:
        words = _words(command) if isinstance(command, str) else list(command)
    except ValueError:
        return ""
    words = [*(f"{name}={value}" for name, value in (environment or {}).items()), *words]
    shown: list[str] = []
    is_program, secret_follows, option = True, False, ""
    for word in words:
        name, equals, value = word.partition("=") if _NAMED.match(word) else ("", "", word)
        is_option = word.startswith("-") and not equals
        if secret_follows and not word.startswith("--"):
            shown.append(HIDDEN)
            secret_follows = False
            continue
        secret_follows = is_option and bool(_IS_SECRET_NAME.match(word))
        option = word if is_option else "" if equals else option
        is_program = is_program and not word.startswith("-")
        is_first = all("=" in before for before in shown)
        if is_program and not equals and (is_first or word.endswith(".py")):
            shown.append(_quoted(mask_secrets(re.split(r"[/\\]", word)[-1])))
        elif equals and _IS_SECRET_NAME.match(name):
            shown.append(f"{name}={HIDDEN}")
            secret_follows = not value
        elif (pair := _WITH_COLON.match(word)) and _IS_SECRET_NAME.match(pair[1]):
            shown.append(f"{pair[1]}:{HIDDEN}")
        else:
            masked = _masked_value(value, name or option)
            shown.append(f"{name}{equals}{HIDDEN}" if masked == HIDDEN else _quoted(f"{name}{equals}{masked}"))
    return " ".join(shown).replace("```", "'''")


def public_name(name: Any) -> str:
    """How a model or a data set is called in public: its Hub id, else the last part of its path, without secrets.

    Args:
        name (`Any`): a Hub id, or a path in any spelling.
    """
    text = " ".join(str(name or "").split())
    if is_hub_id(text) and not _is_local(text):
        return mask_secrets(text)
    parts = [part for part in re.split(r"[/\\]", text) if part.strip(".~:")]
    return mask_secrets(parts[-1] if parts else "")


def without_paths(value: Any) -> Any:
    """A JSON value whose texts are masked, for files that may be published.

    Args:
        value (`Any`): of mappings, lists, texts and numbers. The values of keys that name a secret are hidden.
    """
    return _masked(value, mask)


def without_secrets(value: Any) -> Any:
    """As `without_paths`, for files that stay on the machine: paths are kept."""
    return _masked(value, mask_secrets)


def _masked(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(part, str) and part and _IS_SECRET_NAME.match(str(key)) else _masked(part, text)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_masked(part, text) for part in value]
    return text(value) if isinstance(value, str) else value


def is_hub_id(name: Any) -> bool:
    """Whether `name` can be a repository on the Hub (`owner/name`), by its form only."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+(?:\.[\w-]+)*/[\w-]+(?:\.[\w-]+)*", name, re.ASCII):
        return False
    return (
        len(name) <= 96 and not name.endswith(".git") and "--" not in name and not re.search(r"[/-]-|-/|-\Z|^-", name)
    )


def _words(command: str) -> list[str]:
    """The words of a line, with the backslashes of Windows; those at its ends join several lines."""
    lexer = shlex.shlex(re.sub(r"\\\r?\n", " ", command), posix=True)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return list(lexer)


def _quoted(word: str) -> str:
    return shlex.quote(word) if HIDDEN not in word or re.search(r"\s", word) else word


def _masked_value(value: str, option: str) -> str:
    """The value of an option on a command line; `…` where all of it is hidden."""
    if re.search(r"\s", value):
        is_file = re.search(r"\S[/\\]\S", value) and _ENDS_LIKE_A_FILE.search(value)
        return HIDDEN if _IS_ROOTED.match(value) or is_file or _exists(value) else mask(value)
    if _NUMBERS.match(value) or _URL.fullmatch(value):
        return mask_secrets(value)
    if is_hub_id(value) and not _is_local(value) and not _TAKES_PATHS.search(option):
        return mask_secrets(value)
    is_path = re.search(r"[/\\]|^~|\bfile:|^-\wfile:", value) or _ENDS_LIKE_A_FILE.search(value) or _exists(value)
    return HIDDEN if is_path else mask_secrets(value)


def _is_local(name: str) -> bool:
    """Whether a name in the form of a Hub id is more likely a path: by what is here, and by its words."""
    first = name.partition("/")[0]
    ends_like_a_file = _ENDS_LIKE_A_FILE.search(name) and Path(name).suffix.lower() not in (".en", ".ai")
    return bool(_exists(name) or ends_like_a_file or first.lower() in _FOLDER_WORDS)


def _exists(name: str) -> bool:
    try:
        return os.path.lexists(name)
    except ValueError:  # a null byte
        return False


def _hidden(match: re.Match[str]) -> str:
    found = match.group()
    if _NUMBERS.match(found) or (found.count("/") == 1 and "\\" not in found and not _is_path(found)):
        return found
    ending = re.search(r"[.,;:!?)\]}]*\Z", found.rstrip("\"'"))
    return HIDDEN + (ending.group() if ending else "")


def _is_path(text: str) -> bool:
    """Whether a text with one slash is a path, no Hub id and no "and/or"."""
    return bool(_IS_ROOTED.match(text.lstrip("\"'"))) or _is_local(text.rstrip(".,;:!?"))


def _hidden_value(match: re.Match[str]) -> str:
    name, between, value = match["name"], match["between"], match["value"]
    if not between.strip() and not name.startswith("-"):  # "the token is"
        return match.group()
    quote = value[0] if value[0] in "\"'" else ""
    return f"{name}{between}{quote}{HIDDEN}{quote}"
