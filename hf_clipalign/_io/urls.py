"""Places behind a URL, through fsspec: opened, read, written, and what goes wrong there in one line without secrets.

Credentials come from where the file system itself looks for them: environment, configuration file, machine role. They
are never taken from here, and no message holds them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hf_clipalign._checks.quoting import printable, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.masking import mask_secrets

_URL = re.compile(r"[A-Za-z][\w+.-]*(::[\w+.-]+)*://")
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError")
_REFUSED = re.compile(r"(?i)credential|access ?denied|forbidden|signature|invalidaccesskey|unauthori[sz]ed|\b40[13]\b")
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
    "abfs": "AZURE_STORAGE_CONNECTION_STRING",
    "hf": "HF_TOKEN",
}


def is_url(place: Any) -> bool:
    """Whether a place is behind a URL, `file://` among them."""
    return isinstance(place, str) and _URL.match(place) is not None


def local_path(place: str | Path) -> Path | None:
    """The path of a place on this machine's disks, a `file://` URL among them; None for any other URL."""
    if not is_url(place):
        return Path(place)
    parts = urlsplit(str(place))
    return Path(url2pathname(parts.path)) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def looks_like_url(place: Any) -> bool:
    """Whether a place is a URL, or was one before it was made a path, which leaves one slash of `s3://`."""
    return re.match(r"[A-Za-z][\w+.-]+:/", str(place)) is not None and not str(place).startswith("file:/")


def shown(url: str) -> str:
    """A URL as messages may hold it: without user, password and query."""
    parts = re.sub(r"(://)[^/@]*@", r"\1", url)
    return printable(re.split(r"[?#]", parts, maxsplit=1)[0])


def shown_place(place: str | Path) -> str:
    """A path as it is, a URL as messages may hold it."""
    return shown(str(place)) if is_url(place) else str(place)


class RemoteFolder:
    """A folder behind a URL, with the few operations that a store needs.

    Args:
        url (`str`): what fsspec takes: `s3://bucket/features`, `memory://features`, `simplecache::gs://…`.

    Raises:
        `ClipAlignError`: the protocol is unknown, its package is missing, or the place does not answer.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        with explained(self.url):
            self._files, self._root = fsspec.core.url_to_fs(self.url)

    def __str__(self) -> str:
        return shown(self.url)

    def read(self, name: str) -> bytes:
        """All bytes of a file; `FileNotFoundError` if there is none."""
        with explained(self.url):
            return self._files.cat_file(self._place(name))

    def names(self) -> dict[str, int]:
        """The files of the folder and their sizes; none if it does not exist."""
        with explained(self.url):
            self._files.invalidate_cache()  # others may have written meanwhile
            try:
                found = self._files.ls(self._root, detail=True)
            except FileNotFoundError:
                return {}
        files = (entry for entry in found if entry["type"] == "file")
        return {entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in files}

    def write(self, name: str, content: bytes) -> None:
        """Puts a file under its name, complete or not at all."""
        with explained(self.url):
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(self._place(name), content)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with explained(self.url), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._place(name))

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns what a remote file system raises into one line; only `FileNotFoundError` passes.

    The cause is not chained: what a client of a store says about a request may hold its signature.
    """
    try:
        yield
    except (FileNotFoundError, ClipAlignError):
        raise
    except Exception as error:
        raise ClipAlignError(_line(url, error)) from None


def _line(url: str, error: Exception) -> str:
    protocol = re.split(r"::|://", url)[-2]
    if isinstance(error, ImportError):
        extra = "pip install 'hf_clipalign[s3]'" if protocol == "s3" else short_reason(error)
        return f"{shown(url)!r}: reading {protocol}:// needs a package: {extra}."
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return f"{shown(url)!r}: {protocol}:// is no file system that fsspec knows: check the spelling."
    kinds = {type(error).__name__, type(error.__cause__).__name__, type(error.__context__).__name__}
    reason = mask_secrets(short_reason(error))
    if kinds & set(_NO_CREDENTIALS) or isinstance(error, PermissionError) or _REFUSED.search(reason):
        where = _VARIABLES.get(protocol, "the variables that its file system reads")
        return f"no access to {shown(url)!r} ({reason}): give credentials in the environment ({where})."
    return f"{shown(url)!r} does not answer ({type(error).__name__}: {reason}): check the address, then run again."
