"""The optimisation that both inversions share: pseudo-tokens pulled towards a target feature, item by item.

Items never meet: each has its own start, its own loss and its own AdamW state. What a batch decides about is rounding:
matrix products of other shapes sum in another order, and near convergence AdamW, which divides a small gradient by its
own size, makes such differences grow. So batches of one call have one shape.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._checks.tensors import as_numbers, check_finite
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import unit_rows

INIT_STD = 0.02
DEFAULT_SEED = 0
STOP_INTERVAL = 10
"""Steps between two looks at whether an item still improves (`tolerance`)."""

PUBLISHED_EPS = 64e-8
"""AdamW's eps for an item's own gradient: the published 1e-8 is for the mean over the published batch of 64."""

_BETAS = (0.9, 0.999)
_HALF_LOSS_SCALE = 1024.0
_SHOWN_ITEMS = 5

Encode = Callable[[Tensor], Tensor]


@dataclass
class InversionOutput:
    """Pseudo-tokens and the features that they give.

    Attributes:
        tokens (`Tensor [N, R, w]`): the learned pseudo-tokens, float32; w is the width of the tower they are fed to.
        features (`Tensor [N, d]`): their features in the shared space, not normalised, float32.
        losses (`Tensor [steps]`): mean of `1 - cosine` over the items BEFORE each step.
        snapshots (`dict[int, Tensor [N, d]]`): features after so many steps, for each of `evaluate_at`.
        steps_taken (`LongTensor [N]`): steps of each item; fewer than asked for only with `tolerance`.

    Example:
        ```python
        >>> from hf_clipalign.inversion import oti
        >>> output = oti(model, embeds[:4], processor=processor, steps=2, progress=False)
        >>> output.tokens.shape, output.features.shape, output.losses.shape
        (torch.Size([4, 1, 128]), torch.Size([4, 128]), torch.Size([2]))
        ```
    """

    tokens: Tensor
    features: Tensor
    losses: Tensor
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    steps_taken: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class InversionSettings:
    """What `oti` and `ovi` have in common; checked when made.

    Args:
        n_tokens (`int`): pseudo-tokens R of each item.
        steps (`int`): AdamW steps.
        lr (`float`): learning rate.
        weight_decay (`float`): decoupled; it also acts on the pseudo-tokens.
        eps (`float`): AdamW's, beside the size of the item's own gradient.
        batch_size (`int`): items per pass; rounding depends on it.
        evaluate_at (`Collection[int]`): steps whose features are kept.
        tolerance (`float`, *optional*): an item stops when its loss fell by less than this in `STOP_INTERVAL` steps.
        progress (`bool`): show a progress bar.
    """

    n_tokens: int
    steps: int
    lr: float = 2e-2
    weight_decay: float = 0.01
    eps: float = PUBLISHED_EPS
    batch_size: int = 64
    evaluate_at: Collection[int] = ()
    tolerance: float | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("n_tokens", "steps", "batch_size"):
            check_integer(name, getattr(self, name))
        check_number("lr", self.lr, "a number above 0", above=0)
        check_number("weight_decay", self.weight_decay, "a number of 0 or more", least=0)
        check_number("eps", self.eps, f"a number above 0; the published batch has {PUBLISHED_EPS:g}", above=0)
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, "a number of 0 or more, or None", least=0)
        asked = self.evaluate_at
        if isinstance(asked, str) or not isinstance(asked, Collection):
            raise ClipAlignError(f"evaluate_at is {asked!r}: give a list of steps, such as [10, 50].")
        asked = sorted(asked) if isinstance(asked, Set) else as_list(asked, "evaluate_at")
        object.__setattr__(self, "evaluate_at", tuple(asked))
        late = [step for step in asked if check_integer("a step of evaluate_at", step, 0) > self.steps]
        if late:
            raise ClipAlignError(
                f"evaluate_at asks for step {late[0]}, but there are {self.steps} steps (0 is before)."
            )


def invert(
    make_encode: Callable[[int], Encode],
    targets: Tensor,
    init: Tensor,
    names: Sequence[Any],
    settings: InversionSettings,
    title: str,
) -> InversionOutput:
    """Optimises the pseudo-tokens of all items, batch after batch.

    Where more than one batch is needed, the last one is filled up with copies of the last item (without `tolerance`,
    by which batches change their shape anyhow): how many items there are does not matter to any of them.

    Args:
        make_encode (`Callable`): gives, for a number of items n, the map from tokens `[n, R, w]` to features `[n, d]`.
        targets (`Tensor [N, d]`): the features to be reached.
        init (`Tensor [N, R, w]`): the tokens to start from.
        names (`Sequence`): of the items, for errors.
        settings (`InversionSettings`): steps, rates, snapshots.
        title (`str`): of the progress bar.

    Returns:
        `InversionOutput`: on the device of the targets.

    Raises:
        `ClipAlignError`: an item's tokens or features are not finite.
    """
    n, blocks = len(targets), []
    filled_up = n > settings.batch_size and settings.tolerance is None
    with tqdm(total=n * settings.steps, desc=title, unit="step", disable=None if settings.progress else True) as bar:
        for start in range(0, n, settings.batch_size):
            end = min(start + settings.batch_size, n)
            rows = torch.arange(start, start + settings.batch_size if filled_up else end, device=targets.device)
            rows = rows.clamp(max=n - 1)
            batch = targets[rows], init[rows].float()
            output = _invert_batch(make_encode, *batch, end - start, settings, bar)
            _check_finite(output, names[start:end], settings, title)
            blocks.append(output)
    return join_outputs(blocks, targets.device)


def _check_finite(output: InversionOutput, names: Sequence[Any], settings: InversionSettings, title: str) -> None:
    finite = output.features.isfinite().all(dim=1) & output.tokens.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ClipAlignError(
            f"{title} gave NaN or infinite values for {_named(~finite, names)} with lr {settings.lr:g}: lower it, or "
            "take the model in float32 or bfloat16."
        )


def _named(chosen: Tensor, names: Sequence[Any]) -> str:
    """How many items, and which the first of them are."""
    rows = chosen.nonzero().flatten().tolist()
    shown = ", ".join(str(names[row]) for row in rows[:_SHOWN_ITEMS])
    return f"{len(rows)} items ({shown}{', …' if len(rows) > _SHOWN_ITEMS else ''})"


def initial_tokens(ids: Sequence[Any], shape: tuple[int, int], init: Any, generator: torch.Generator | None) -> Tensor:
    """The tokens to start from, `[N, R, w]`: given, or drawn from N(0, 0.02²) by the seed and the item's name only.

    Args:
        ids (`Sequence`): names of the items; numbers and strings are distinguished by their text.
        shape (`(R, w)`): tokens of one item.
        init (`Tensor` or array `[N, R, w]` or `[R, w]`, *optional*): given tokens.
        generator (`torch.Generator`, *optional*): gives the seed of all items. Default: a fixed seed.

    Raises:
        `ClipAlignError`: given tokens of another shape, or NaN or infinite ones; a generator that is none.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ClipAlignError(
            f"generator is {generator!r}: give a torch.Generator, such as torch.Generator().manual_seed(0)."
        )
    if init is not None:
        init = as_numbers(init, "init")
        if init.shape[-2:] != shape or init.dim() > 3 or (init.dim() == 3 and len(init) != len(ids)):
            wanted = [len(ids), *shape]
            raise ClipAlignError(f"init has shape {list(init.shape)}, but the pseudo-tokens have {wanted}.")
        check_finite(init, "init")
        return init.detach().expand(len(ids), *shape)
    seed = DEFAULT_SEED
    if generator is not None:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.stack([_draw(f"{seed}/{name}", shape) for name in ids]) if len(ids) else torch.empty(0, *shape)


def check_targets(targets: Any, embed_dim: int, what: str, ids: Iterable[Any] | None) -> tuple[Tensor, Sequence[Any]]:
    """The features to be reached, as a tensor, and the items' names.

    Raises:
        `ClipAlignError`: no matrix of numbers, another width than the model's, zero or NaN rows, no rows, or another
            number of names.
    """
    targets = as_numbers(targets, what, "one tensor or array of numbers")
    if targets.dim() != 2 or targets.shape[1] != embed_dim:
        raise ClipAlignError(
            f"{what} have shape {list(targets.shape)}, but the model's shared space has {embed_dim} dimensions: take "
            "the projected features of the same model, [N, d]."
        )
    if not len(targets):
        raise ClipAlignError(f"there are no {what} to invert.")
    names = range(len(targets)) if ids is None else as_list(ids, "ids")
    if len(names) != len(targets):
        raise ClipAlignError(f"{len(targets)} {what} but {len(names)} ids: give one id for each.")
    check_finite(targets, what, lambda row: str(names[row]))
    if (zero := (targets == 0).all(dim=1)).any():
        raise ClipAlignError(f"{what} are zero for {_named(zero, names)}: leave these items out.")
    return targets, names


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients to its weights; afterwards as it was.

    Raises:
        `ClipAlignError`: weights made in inference mode, through which no gradient goes.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ClipAlignError("the model was made under torch.inference_mode(): load it outside of it.")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


class _ItemAdamW:
    """AdamW (decoupled weight decay) that can let go of items: every state tensor has the items as first axis."""

    def __init__(self, tokens: Tensor, lr: float, weight_decay: float, eps: float):
        self.lr, self.weight_decay, self.eps = lr, weight_decay, eps
        self.mean, self.square = torch.zeros_like(tokens), torch.zeros_like(tokens)
        self.step_number = 0

    def step(self, tokens: Tensor, gradient: Tensor) -> Tensor:
        """The tokens after one step."""
        self.step_number += 1
        first, second = _BETAS
        self.mean.lerp_(gradient, 1 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        correction = 1 - first**self.step_number
        root = (self.square.sqrt() / (1 - second**self.step_number) ** 0.5).add_(self.eps)
        return (tokens * (1 - self.lr * self.weight_decay)).addcdiv_(self.mean, root, value=-self.lr / correction)

    def keep(self, items: Tensor) -> None:
        """Lets go of all other items."""
        self.mean, self.square = self.mean[items], self.square[items]


class _Batch:
    """The state of one batch: what every item has reached, and which items still move."""

    def __init__(self, targets: Tensor, init: Tensor, steps: int):
        n = len(targets)
        self.targets = unit_rows(targets)
        self.tokens = init.clone()
        self.features = torch.zeros_like(self.targets)
        self.losses = torch.zeros(n, device=targets.device)
        self.earlier = torch.full((n,), torch.inf, device=targets.device)
        self.taken = torch.full((n,), steps, device=targets.device)
        self.active = torch.arange(n, device=targets.device)

    def finished(self, step: int, tolerance: float) -> Tensor:
        """Which of the active items have stopped improving, at a step where that is looked at."""
        losses = self.losses[self.active]
        done = self.earlier[self.active] - losses < tolerance
        self.earlier[self.active] = losses
        self.taken[self.active[done]] = step
        return done


def _invert_batch(
    make_encode: Callable[[int], Encode],
    targets: Tensor,
    init: Tensor,
    n_items: int,
    settings: InversionSettings,
    bar: Any,
) -> InversionOutput:
    """The first `n_items` of a batch; what comes after them only gives it its shape."""
    batch = _Batch(targets, init, settings.steps)
    optimizer = _ItemAdamW(batch.tokens, settings.lr, settings.weight_decay, settings.eps)
    encode = make_encode(len(targets))
    losses, snapshots = torch.zeros(settings.steps), {}
    for step in range(settings.steps):
        active = batch.active
        if len(active):
            tokens = batch.tokens[active]
            features, item_losses, gradient = _evaluate(encode, tokens, batch.targets[active])
            batch.features[active], batch.losses[active] = features, item_losses
        losses[step] = batch.losses[:n_items].mean()
        if step in settings.evaluate_at:
            snapshots[step] = batch.features[:n_items].clone()
        if settings.tolerance is not None and step % STOP_INTERVAL == 0 and len(active):
            moving = ~batch.finished(step, settings.tolerance)
            if not moving.all():
                batch.active = active = active[moving]
                tokens, gradient = tokens[moving], gradient[moving]
                optimizer.keep(moving)
                encode = make_encode(len(active)) if len(active) else encode
        if len(active):
            batch.tokens[active] = optimizer.step(tokens, gradient)
        bar.update(n_items)
    if len(batch.active):
        with torch.no_grad():
            batch.features[batch.active] = encode(batch.tokens[batch.active]).float()
    if settings.steps in settings.evaluate_at:
        snapshots[settings.steps] = batch.features[:n_items].clone()
    tokens, features, taken = (value[:n_items] for value in (batch.tokens, batch.features, batch.taken))
    return InversionOutput(tokens, features, losses, snapshots, taken)


def _evaluate(encode: Encode, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features, losses and gradients of some items: the SUM of the losses, so that no item feels the others."""
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_(True)
        features = encode(tokens)
        scale = _HALF_LOSS_SCALE if features.dtype == torch.float16 else 1.0
        losses = 1 - (F.normalize(features.float(), dim=-1) * targets).sum(dim=-1)
        (gradient,) = torch.autograd.grad(scale * losses.sum(), tokens)
    return features.detach().float(), losses.detach(), gradient / scale


def _draw(key: str, shape: tuple[int, int]) -> Tensor:
    digest = hashlib.blake2b(key.encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return INIT_STD * torch.randn(shape, generator=generator)


def join_outputs(blocks: Sequence[InversionOutput], device: torch.device | str = "cpu") -> InversionOutput:
    """Inversions of consecutive items as one; `losses` is the mean over all items."""
    sizes = torch.tensor([len(block) for block in blocks], dtype=torch.float32)
    losses = torch.stack([block.losses for block in blocks])
    return InversionOutput(
        tokens=torch.cat([block.tokens for block in blocks]).to(device),
        features=torch.cat([block.features for block in blocks]).to(device),
        losses=(losses * sizes[:, None]).sum(0) / sizes.sum(),
        snapshots={
            step: torch.cat([block.snapshots[step] for block in blocks]).to(device) for step in blocks[0].snapshots
        },
        steps_taken=torch.cat([block.steps_taken for block in blocks]).cpu(),
    )
