"""Talking to the Hub: waiting when it says so, one commit, and one line for whatever goes wrong."""

from __future__ import annotations

import contextlib
import email.utils
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_clipalign._errors import ClipAlignError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

logger = logging.getLogger(__name__)

LONGEST_WAIT = 600.0
"""Seconds that a push waits in all when the Hub answers "too many requests" (429)."""

_WHOLE = "A push is complete or has no effect."
_SHORTEST_WAIT = 1.0
_Answer = TypeVar("_Answer")


def open_api(token: str | None) -> HfApi:
    """The Hub's client with the token given, or the one that is logged in.

    Raises:
        `ClipAlignError`: there is none.
    """
    from huggingface_hub import HfApi, get_token

    if token is None and get_token() is None:
        raise ClipAlignError("no Hub token: log in with `hf auth login`, set HF_TOKEN, or give token=.")
    return HfApi(token=token)


def check_push_access(repo_id: str | None, token: str | None = None) -> None:
    """Refuses a push that could not work, before the hours of training that come before it.

    Args:
        repo_id (`str`, *optional*): `owner/name`, or `name` for the token's own namespace.
        token (`str`, *optional*): access token. Default: the one that is logged in.

    Raises:
        `ClipAlignError`: no repository is named, no token, an offline machine, a token that the Hub does not accept or
            that may only read.
    """
    if not repo_id:
        raise ClipAlignError("where to push? Give hub_model_id, owner/name.")
    with explained(repo_id):
        api = open_api(token)
        full_id(api, repo_id)
        access = patiently(api.whoami).get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise ClipAlignError(f"the token may only read, not push to {repo_id!r}: use one with write access.")


def full_id(api: HfApi, repo_id: str) -> str:
    """`owner/name`; a name alone is in the token's own namespace."""
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    return repo_id if "/" in repo_id else f"{patiently(api.whoami)['name']}/{repo_id}"


def open_repo(api: HfApi, repo_id: str, private: bool | None, revision: str | None) -> None:
    """Makes the repository and the branch where they do not exist.

    Raises:
        `ClipAlignError`: the repository is public where a private one is wanted, or the other way round.
    """
    _create(api, repo_id, private)
    is_private = patiently(api.model_info, repo_id).private
    if private is not None and bool(is_private) != private:
        raise ClipAlignError(
            f"the repository {repo_id!r} exists and is {'private' if is_private else 'public'}: nothing was pushed. "
            "Change that in its settings on the Hub, or choose another name."
        )
    if revision is not None:
        patiently(api.create_branch, repo_id, branch=revision, exist_ok=True)


def _create(api: HfApi, repo_id: str, private: bool | None) -> None:
    """`exist_ok=True` of the client reads an address from the answer, which a refusal (409) need not hold."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        patiently(api.create_repo, repo_id, private=private)
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 402, 403, 409):
            raise
        try:
            patiently(api.model_info, repo_id)
        except HfHubHTTPError:
            raise error from None


def commit(
    api: HfApi, repo_id: str, files: Mapping[str, Path | bytes], message: str, revision: str | None
) -> CommitInfo:
    """All files in one commit. When the answer is lost, the Hub is asked whether the commit has arrived.

    Raises:
        `ClipAlignError`: the connection broke, and it is not known whether the commit arrived.
    """
    from huggingface_hub import CommitInfo, CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    operations = [CommitOperationAdd(name, file) for name, file in files.items()]
    before = patiently(api.model_info, repo_id, revision=revision).sha
    try:
        return patiently(api.create_commit, repo_id, operations, commit_message=message, revision=revision)
    except (HTTPError, ConnectionError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        sha = _arrived(api, repo_id, operations, revision, before, error)
        if sha is None:
            raise
        url = f"{api.endpoint}/{repo_id}/commit/{sha}"
        logger.warning("the Hub's answer was lost, but the commit has arrived: %s", url)
        return CommitInfo(commit_url=url, commit_message=message, commit_description="", oid=sha)


def _arrived(
    api: HfApi,
    repo_id: str,
    operations: list[CommitOperationAdd],
    revision: str | None,
    before: str | None,
    error: Exception,
) -> str | None:
    """The branch's new commit if it holds all files as they were sent; None if it does not, or is the old one."""
    from huggingface_hub.errors import HTTPError

    try:
        sha = api.model_info(repo_id, revision=revision).sha
        if sha is None or sha == before:
            return None
        there = {file.path: file for file in api.list_repo_tree(repo_id, recursive=True, revision=sha)}
    except (HTTPError, OSError) as unreachable:
        raise ClipAlignError(
            f"the connection to the Hub broke while {repo_id!r} was pushed ({_first_line(error)}), and it cannot be "
            f"asked whether the commit arrived: look at {api.endpoint}/{repo_id} and push again if it did not. A "
            "second push of the same files changes nothing."
        ) from unreachable
    return sha if all(_same(operation, there.get(operation.path_in_repo)) for operation in operations) else None


def _same(sent: CommitOperationAdd, there: Any) -> bool:
    from huggingface_hub.utils.sha import git_hash

    if there is None:
        return False
    lfs = getattr(there, "lfs", None)
    if lfs is not None:
        return lfs.sha256 == sent.upload_info.sha256.hex()
    with sent.as_file() as file:
        return there.blob_id == git_hash(file.read())


def patiently(ask: Callable[..., _Answer], *args: Any, **kwargs: Any) -> _Answer:
    """Calls the Hub; when it answers "too many requests", waits as long as it says, says so, and asks again.

    Raises:
        `ClipAlignError`: it wants more than `LONGEST_WAIT` seconds in all.
    """
    from huggingface_hub.errors import HfHubHTTPError

    waited = 0.0
    while True:
        try:
            return ask(*args, **kwargs)
        except HfHubHTTPError as error:
            if error.response.status_code != 429:
                raise
            seconds = max(_retry_after(error.response.headers), _SHORTEST_WAIT)
            if waited + seconds > LONGEST_WAIT:
                raise ClipAlignError(
                    f"the Hub answers that there were too many requests (429) and wants a wait of {seconds:.0f} "
                    f"seconds: nothing was pushed. Try again after that. {_WHOLE}"
                ) from error
            logger.warning("the Hub answers that there were too many requests (429): waiting %.0f s", seconds)
            time.sleep(seconds)
            waited += seconds


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that an answer asks to wait: a number or a date in `Retry-After`; a minute where it says nothing."""
    value = headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return 60.0


@contextlib.contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns whatever goes wrong between here and the Hub into one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except ClipAlignError:
        raise
    except HfHubHTTPError as error:
        raise ClipAlignError(_answer(repo_id, error)) from error
    except HFValidationError as error:
        raise ClipAlignError(f"{repo_id!r} is no repository name: write owner/name.") from error
    except OfflineModeIsEnabled as error:
        raise ClipAlignError(f"cannot push to {repo_id!r} while HF_HUB_OFFLINE is set: unset it.") from error
    except (HTTPError, OSError, RuntimeError, ValueError, LookupError) as error:
        raise ClipAlignError(_broken(repo_id, error)) from error


def _answer(repo_id: str, error: Any) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub does not accept the token (401) for {repo_id!r}: log in again with `hf auth login`."
    if status == 403:
        return f"the token may not write to {repo_id!r} (403): use one with write access, or another owner."
    if status == 404:
        return f"the Hub does not show {repo_id!r} to this token (404): check the name and the token's rights."
    if status >= 500:
        return f"the Hub failed while {repo_id!r} was pushed (error {status}): try again later. {_WHOLE}"
    reason = (error.server_message or str(error)).strip().splitlines()[0]
    return f"the Hub refused the push to {repo_id!r} ({status}): {reason}"


def _broken(repo_id: str, error: Exception) -> str:
    from huggingface_hub.errors import HTTPError

    cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
    if isinstance(cause, (HTTPError, ConnectionError)):
        return (
            f"the connection to the Hub broke while {repo_id!r} was pushed ({_first_line(cause)}): try again. {_WHOLE}"
        )
    if isinstance(cause, LookupError):
        return f"the Hub's answer while {repo_id!r} was pushed lacks {_first_line(cause)}: try again. {_WHOLE}"
    return f"cannot push to {repo_id!r}: {_first_line(cause)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
