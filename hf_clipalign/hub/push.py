"""Pushing models, stock exports and adapters to the Hub: one commit, with a card."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_file, explained_write
from hf_clipalign.hub.cards import SPECTRUM_FILE, CardEvaluation, ModelCardInfo, build_card
from hf_clipalign.hub.folders import describe_folder
from hf_clipalign.hub.retune_folder import retune_files

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from hf_clipalign.isoclip import IsoCLIPModel

_CARD = "README.md"
_UNFILLED = "[More Information Needed]"
_WEIGHTS = (".safetensors", ".onnx")
_WHOLE = "A push arrives whole or not at all."
_PICKLES = (".bin", ".pkl", ".pt", ".pth")


def push_folder(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    overwrite_card: bool = False,
    info: ModelCardInfo | None = None,
    evaluations: Sequence[CardEvaluation] = (),
) -> CommitInfo:
    """Pushes a saved folder to the Hub in one commit: all of it arrives, or nothing. The folder is not changed.

    A folder without a `README.md` gets a card, made from what the folder says about itself. A card that the
    repository has already is kept. Hidden files, training checkpoints and pickles stay at home; of a RE-tune run all
    but adapter, prompts, scores and card.

    Args:
        folder (`str` or `Path`): an aligned model, a stock export, a PEFT adapter, or any checkpoint.
        repo_id (`str`): `owner/name`, or `name` for your own namespace. Made if it does not exist.
        private (`bool`, *optional*): True for a private repository, False for a public one. Default: as it is, or
            the account's default for a new one.
        revision (`str`, *optional*): branch to commit to, made from `main` if it does not exist. Default `main`.
        commit_message (`str`, *optional*): title of the commit.
        token (`str`, *optional*): access token. Default: the one you are logged in with.
        overwrite_card (`bool`): replace the repository's card. Default False.
        info (`ModelCardInfo`, *optional*): facts for the card. Default: `describe_folder(folder)`.
        evaluations (`Sequence[CardEvaluation]`): results for the card.

    Returns:
        `CommitInfo`: the commit; it reads as its address.

    Raises:
        `ClipAlignError`: no model in the folder, a RE-tune adapter whose base model is not on the Hub, no token or one
            without the right to write, a repository of the other visibility, a server error, a cut connection. A
            second try is always possible.
    """
    folder = Path(folder)
    files: dict[str, Any] = dict(_files(folder))
    if _has_own_card(files):
        _refuse_results(evaluations, f"the folder {str(folder)!r} has a README.md of its own: write them there.")
    else:
        info = describe_folder(folder, repo_id) if info is None else info
        info = replace(info, evaluations=[*info.evaluations, *evaluations])
    with _explained(repo_id):
        api = _api(token)
        repo_id = _full_id(api, repo_id)
        _open_repo(api, repo_id, private, revision)
        if not overwrite_card and api.file_exists(repo_id, _CARD, revision=revision):
            _refuse_results(evaluations, f"{repo_id!r} has a card, which is kept: ask for overwrite_card.")
            files.pop(_CARD, None)
        elif not _has_own_card(files) and info is not None:
            files |= _card_files(api, replace(info, load_from=repo_id), folder)
        name = repo_id.rsplit("/", 1)[-1]
        return _commit(api, repo_id, files, commit_message or f"Upload {name} with hf_clipalign", revision)


def push_isoclip(
    model: IsoCLIPModel,
    repo_id: str,
    processor: Any = None,
    save_kwargs: dict[str, Any] | None = None,
    **push_kwargs: Any,
) -> CommitInfo:
    """Pushes an aligned model with its processor, card and spectrum plot in one commit.

    Args:
        model (`IsoCLIPModel`): the model.
        repo_id (`str`): `owner/name`.
        processor (`ProcessorMixin`, *optional*): pushed with it. Default: the base model's, if it can be found.
        save_kwargs (`dict`, *optional*): passed to `save_pretrained` (`max_shard_size`, …).
        **push_kwargs: as `push_folder`.

    Raises:
        `ClipAlignError`: as `push_folder`, or the disk is full.
    """
    processor = _find_processor(model) if processor is None else processor
    with _staging() as folder:
        with explained_write(folder):
            model.save_pretrained(folder, **(save_kwargs or {}))
            if processor is not None:
                processor.save_pretrained(folder)
        save_spectrum(model, folder / SPECTRUM_FILE)
        return push_folder(folder, repo_id, **push_kwargs)


def push_model(model: Any, repo_id: str, **push_kwargs: Any) -> CommitInfo:
    """Pushes a model that `save_pretrained` writes whole, with its card in one commit.

    Args:
        model (`PreTrainedModel`): the model.
        repo_id (`str`): `owner/name`.
        **push_kwargs: as `push_folder`.

    Raises:
        `ClipAlignError`: as `push_folder`, or the disk is full.
    """
    with _staging() as folder:
        with explained_write(folder):
            model.save_pretrained(folder)
        return push_folder(folder, repo_id, **push_kwargs)


def push_stock(
    model: IsoCLIPModel,
    repo_id: str,
    modality: Any = "image",
    compact: bool = False,
    processor: Any = None,
    **push_kwargs: Any,
) -> CommitInfo:
    """Pushes one aligned tower as a stock checkpoint, with card and spectrum plot in one commit.

    Args:
        model (`IsoCLIPModel`): the aligned model.
        repo_id (`str`): `owner/name`.
        modality (`"image"` or `"text"`), compact (`bool`): as `IsoCLIPModel.save_stock`.
        processor (`ProcessorMixin`, *optional*): pushed with it. Default: the base model's, if it can be found.
        **push_kwargs: as `push_folder`.

    Raises:
        `ClipAlignError`: as `push_folder` and `save_stock`, or the disk is full.
    """
    processor = _find_processor(model) if processor is None else processor
    with _staging() as folder:
        with explained_write(folder):
            model.save_stock(folder, modality, compact, processor)
        save_spectrum(model, folder / SPECTRUM_FILE)
        return push_folder(folder, repo_id, **push_kwargs)


def push_adapter(
    peft_model: Any,
    repo_id: str,
    base_model: str | None = None,
    method: str | None = None,
    description: str = "",
    **push_kwargs: Any,
) -> CommitInfo:
    """Pushes a PEFT adapter with a card in one commit.

    Args:
        peft_model (`PeftModel`): the trained model; only its adapter is pushed.
        repo_id (`str`): `owner/name`.
        base_model (`str`, *optional*): Hub id of the base model. Default: as the adapter's configuration says.
        method (`str`, *optional*): key of `hf_clipalign.papers.PAPERS`, for the citation.
        description (`str`): a paragraph for the card.
        **push_kwargs: as `push_folder`.

    Raises:
        `ClipAlignError`: the base model is a folder on this machine, so that nobody else could load the adapter; or
            as `push_folder`.
    """
    with _staging() as folder:
        with explained_write(folder):
            peft_model.save_pretrained(folder)
            (folder / _CARD).unlink(missing_ok=True)
            if base_model is not None:
                _set_base_model(folder / "adapter_config.json", base_model)
        info = replace(describe_folder(folder, repo_id), method=method, description=description)
        if info.base_model is None:
            name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
            raise ClipAlignError(
                f"the adapter's base model {name!r} is not on the Hub: push the base model first, then give "
                "base_model='owner/name'."
            )
        return push_folder(folder, repo_id, info=info, **push_kwargs)


def save_spectrum(model: IsoCLIPModel, path: str | Path) -> None:
    """Writes the plot of a model's spectrum with its bands.

    Args:
        model (`IsoCLIPModel`): the aligned model.
        path (`str` or `Path`): the `.png` file.

    Raises:
        `ClipAlignError`: the file cannot be written.
    """
    from hf_clipalign.evaluation import plot_spectrum
    from hf_clipalign.isoclip import decompose

    encoder = model.encoder
    values = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix).S.cpu()
    bands = {"image band": model.config.image_band, "text band": model.config.text_band}
    figure = plot_spectrum(values, {name: tuple(band) for name, band in bands.items() if band})
    with atomic_file(path) as staging, explained_write(path):
        figure.savefig(staging, dpi=110, format="png")


def _files(folder: Path) -> dict[str, Path]:
    """What is pushed, by its path in the repository."""
    if not folder.is_dir():
        raise ClipAlignError(f"no folder {str(folder)!r}: give one that `clipalign trim` or save_pretrained wrote.")
    files = retune_files(folder)
    if files is None:
        names = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        files = {name.as_posix(): folder / name for name in names if not _stays_at_home(name)}
    if not any(name.endswith(_WEIGHTS) for name in files):
        raise ClipAlignError(
            f"{str(folder)!r} holds no weights ({' or '.join(_WEIGHTS)}): give a folder that `clipalign trim` or "
            "save_pretrained wrote."
        )
    return files


def _has_own_card(files: dict[str, Any]) -> bool:
    """Whether the folder brings a card; the empty form that some libraries write is none."""
    return _CARD in files and _UNFILLED not in files[_CARD].read_text(encoding="utf-8", errors="replace")


def _refuse_results(evaluations: Sequence[CardEvaluation], reason: str) -> None:
    if evaluations:
        raise ClipAlignError(f"the results would not be shown, so nothing was pushed: {reason}")


def _stays_at_home(name: Path) -> bool:
    hidden = any(part.startswith((".", "checkpoint-")) for part in name.parts)
    return hidden or name.suffix in _PICKLES


def _card_files(api: HfApi, info: ModelCardInfo, folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = {}
    if info.kind == "isoclip" and not info.has_spectrum:
        files[SPECTRUM_FILE] = _spectrum_of(folder)
        info = replace(info, has_spectrum=True)
    if info.licence is None and info.base_model is not None:
        info = replace(info, licence=_licence(api, info.base_model))
    files[_CARD] = str(build_card(info)).encode()
    return files


def _spectrum_of(folder: Path) -> bytes:
    from hf_clipalign.isoclip import IsoCLIPModel

    with _staging() as staging:
        save_spectrum(IsoCLIPModel.from_pretrained(folder), staging / SPECTRUM_FILE)
        return (staging / SPECTRUM_FILE).read_bytes()


def _licence(api: HfApi, base_model: str) -> str | None:
    """The licence that the base model's card names, or None where that cannot be told."""
    from huggingface_hub.errors import HTTPError

    try:
        data = api.model_info(base_model).card_data
    except (HTTPError, OSError, ValueError):
        return None
    licence = None if data is None else data.get("license")
    return licence if isinstance(licence, str) else None


def _api(token: str | None) -> HfApi:
    from huggingface_hub import HfApi, get_token

    if token is None and get_token() is None:
        raise ClipAlignError("no Hub token: log in with `hf auth login`, set HF_TOKEN, or give token=.")
    return HfApi(token=token)


def _full_id(api: HfApi, repo_id: str) -> str:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def _open_repo(api: HfApi, repo_id: str, private: bool | None, revision: str | None) -> None:
    api.create_repo(repo_id, private=private, exist_ok=True)
    is_private = api.model_info(repo_id).private
    if private is not None and bool(is_private) != private:
        raise ClipAlignError(
            f"the repository {repo_id!r} exists and is {'private' if is_private else 'public'}: nothing was pushed. "
            "Change that in its settings on the Hub, or choose another name."
        )
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _commit(api: HfApi, repo_id: str, files: dict[str, Any], message: str, revision: str | None) -> CommitInfo:
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, file) for name, file in files.items()]
    return api.create_commit(repo_id, operations, commit_message=message, revision=revision)


def _find_processor(model: IsoCLIPModel) -> Any:
    from hf_clipalign.backbones import load_processor

    for name in (model.name_or_path, model.encoder.model.name_or_path, model.config.base_model_name_or_path):
        with contextlib.suppress(ClipAlignError):
            if name:
                return load_processor(name)
    return None


def _set_base_model(path: Path, base_model: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"base_model_name_or_path": base_model}, indent=2), encoding="utf-8")


@contextlib.contextmanager
def _staging() -> Iterator[Path]:
    with explained_write(tempfile.gettempdir()):
        staging = tempfile.TemporaryDirectory(prefix="clipalign-")
    with staging as name:
        yield Path(name)


@contextlib.contextmanager
def _explained(repo_id: str) -> Iterator[None]:
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
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
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

    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if isinstance(cause, (HTTPError, ConnectionError)):
        return f"the connection to the Hub broke while {repo_id!r} was pushed ({reason}): try again. {_WHOLE}"
    return f"cannot push to {repo_id!r}: {reason}"
