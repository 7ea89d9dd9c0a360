"""Pushing models, exports and adapters to the Hub: one commit, with a card."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._hooks import register_push
from hf_clipalign._io.files import atomic_file, explained_write
from hf_clipalign._io.staging import staging_folder
from hf_clipalign.hub.cards import SPECTRUM_FILE, CardEvaluation, ModelCardInfo, build_card
from hf_clipalign.hub.connection import commit, explained, full_id, open_api, open_repo, patiently
from hf_clipalign.hub.folders import describe_folder
from hf_clipalign.hub.published import is_record, published, set_base_model
from hf_clipalign.hub.uploads import Upload, plan_upload

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from hf_clipalign.isoclip import IsoCLIPModel

logger = logging.getLogger(__name__)

_CARD = "README.md"
_UNFILLED = "[More Information Needed]"


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
    include: Sequence[str] = (),
) -> CommitInfo:
    """Pushes a saved folder to the Hub in one commit: all of it arrives, or nothing. The folder is not changed.

    Only files that belong to a folder of its kind are uploaded (`plan_upload`); a warning lists the others. Their
    configurations and the metadata of their weights lose the paths of this machine. A folder without a `README.md`
    gets a card, made from what the folder says about itself. A card that the repository has already is kept. When the
    Hub answers that there were too many requests, the push waits as long as it says, ten minutes at most.

    Args:
        folder (`str` or `Path`): an aligned model, a stock export, a PEFT adapter, or any checkpoint.
        repo_id (`str`): `owner/name`, or `name` for your own namespace. Made if it does not exist.
        private (`bool`, *optional*): True for a private repository, False for a public one. Default: as it is, or
            the account's default for a new one.
        revision (`str`, *optional*): branch to commit to, made from `main` if it does not exist. Default `main`.
        commit_message (`str`, *optional*): title of the commit.
        token (`str`, *optional*): access token. Default: the one you are logged in with.
        overwrite_card (`bool`, *optional*, defaults to `False`): replace the repository's card.
        info (`ModelCardInfo`, *optional*): facts for the card. Default: `describe_folder(folder)`.
        evaluations (`Sequence[CardEvaluation]`): results for the card.
        include (`Sequence[str]`): further files or sub-folders to upload, by their path in the folder; as they
            are, except for configurations and the records of runs.

    Returns:
        `CommitInfo`: the commit; it reads as its address.

    Raises:
        `ClipAlignError`: no model in the folder, a file that is a link out of it, a RE-tune adapter whose base model
            is not on the Hub, no token or one without the right to write, a repository of the other visibility, a
            server error, a cut connection. A second try is always possible.

    Example:
        ```python
        >>> from hf_clipalign.hub import push_folder
        >>> aligned.save_pretrained("clip-isoclip")
        >>> push_folder("clip-isoclip", "me/clip-isoclip", private=True).commit_message
        'Upload clip-isoclip with hf_clipalign'
        ```
    """
    folder = Path(folder)
    upload = plan_upload(folder, include)
    _tell_what_is_left_out(upload)
    if _has_own_card(upload.files):
        _refuse_results(evaluations, f"the folder {str(folder)!r} has a README.md of its own: write them there.")
    else:
        info = describe_folder(folder, repo_id) if info is None else info
        info = replace(info, evaluations=[*info.evaluations, *evaluations])
    with explained(repo_id), _staging() as staging:
        files: dict[str, Path | bytes] = {
            name: file if name in include and not is_record(name) else published(name, file, staging)
            for name, file in upload.files.items()
        }
        api = open_api(token)
        repo_id = full_id(api, repo_id)
        open_repo(api, repo_id, private, revision)
        if not overwrite_card and patiently(api.file_exists, repo_id, _CARD, revision=revision):
            _refuse_results(evaluations, f"{repo_id!r} has a card, which is kept: ask for overwrite_card.")
            files.pop(_CARD, None)
        elif not _has_own_card(upload.files) and info is not None:
            files |= _card_files(api, replace(info, load_from=repo_id), folder)
        name = repo_id.rsplit("/", 1)[-1]
        return commit(api, repo_id, files, commit_message or f"Upload {name} with hf_clipalign", revision)


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

    Example:
        ```python
        >>> from hf_clipalign.hub import push_isoclip
        >>> push_isoclip(aligned, "me/clip-isoclip", processor).repo_url.repo_id
        'me/clip-isoclip'
        ```
    """
    processor = model.known_processor(local_files_only=False) if processor is None else processor
    with _staging() as folder:
        with explained_write(folder):
            model.save_pretrained(folder, processor, **(save_kwargs or {}))
        save_spectrum(model, folder / SPECTRUM_FILE)
        return push_folder(folder, repo_id, **push_kwargs)


def push_model(model: Any, repo_id: str, **push_kwargs: Any) -> CommitInfo:
    """Pushes a model that `save_pretrained` writes completely, with its card in one commit.

    Args:
        model (`PreTrainedModel`): the model.
        repo_id (`str`): `owner/name`.
        **push_kwargs: as `push_folder`.

    Raises:
        `ClipAlignError`: as `push_folder`, or the disk is full.

    Example:
        ```python
        >>> from hf_clipalign.hub import push_model
        >>> push_model(model, "me/clip-student").repo_url.repo_id
        'me/clip-student'
        ```
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

    Example:
        ```python
        >>> from hf_clipalign.hub import push_stock
        >>> push_stock(aligned, "me/clip-images", "image", compact=True).repo_url.repo_id
        'me/clip-images'
        ```
    """
    processor = model.known_processor(local_files_only=False) if processor is None else processor
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

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.hub import push_adapter
        >>> from hf_clipalign.tuners import CoOpConfig
        >>> prompted = get_peft_model(load_mini().student, CoOpConfig(n_ctx=4))
        >>> push_adapter(prompted, "me/clip-prompts", base_model="me/clip-student").repo_url.repo_id
        'me/clip-prompts'
        ```
    """
    with _staging() as folder:
        with explained_write(folder):
            peft_model.save_pretrained(folder)
            (folder / _CARD).unlink(missing_ok=True)
            if base_model is not None:
                set_base_model(folder / "adapter_config.json", base_model)
        info = replace(describe_folder(folder, repo_id), method=method, description=description)
        if info.base_model is None:
            name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
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

    Example:
        ```python
        >>> save_spectrum(IsoCLIPModel.from_pretrained("clip-b32-isoclip"), "spectrum.png")
        ```
    """
    from hf_clipalign.evaluation import plot_spectrum
    from hf_clipalign.isoclip import decompose

    encoder = model.encoder
    values = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix).S.cpu()
    bands = {"image band": model.config.image_band, "text band": model.config.text_band}
    figure = plot_spectrum(values, {name: tuple(band) for name, band in bands.items() if band})
    with atomic_file(path) as staging, explained_write(path):
        figure.savefig(staging, dpi=110, format="png")


def _tell_what_is_left_out(upload: Upload) -> None:
    if upload.left_out:
        logger.warning(
            "not uploaded: %s. Add a file by its name, if it is meant for others: include=[%r], or --include %s",
            *(upload.summary, upload.left_out[0], upload.left_out[0]),
        )


def _has_own_card(files: dict[str, Path]) -> bool:
    """Whether the folder brings a card; the empty form that some libraries write is none."""
    return _CARD in files and _UNFILLED not in files[_CARD].read_text(encoding="utf-8", errors="replace")


def _refuse_results(evaluations: Sequence[CardEvaluation], reason: str) -> None:
    if evaluations:
        raise ClipAlignError(f"the results would not be shown, so nothing was pushed: {reason}")


def _card_files(api: HfApi, info: ModelCardInfo, folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
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
    """The licence that the base model's card names, or None where that is unknown."""
    from huggingface_hub.errors import HTTPError

    try:
        data = patiently(api.model_info, base_model).card_data
    except (HTTPError, OSError, ValueError):
        return None
    licence = None if data is None else data.get("license")
    return licence if isinstance(licence, str) else None


@contextlib.contextmanager
def _staging() -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        with explained_write(tempfile.gettempdir()):
            folder = stack.enter_context(staging_folder(tempfile.gettempdir(), "clipalign-push"))
        yield folder


register_push("isoclip", push_isoclip)
register_push("model", push_model)
