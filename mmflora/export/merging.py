"""From an adapter checkpoint to a plain one, compared before it is kept."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmflora.config import build
from mmflora.config.walk import find_dicts
from mmflora.files.atomic import staged_file

from .dense_outputs import (
    Difference,
    image_size,
    largest_difference,
    random_images,
)
from .merged_state import (
    DTYPES,
    backbone_state,
    cast_parameters,
    check_mergeable,
    merged_state,
    plain_meta,
)
from .merged_weights import check_weights, sample_weights
from .plain_config import PlainConfig, plain_config
from .timm_layout import (
    build_timm,
    stage_features,
    timm_arguments,
    timm_features,
    timm_state,
)
from .trained_model import build_model, load_trained, load_whole
from .transformer_outputs import comparable_outputs

BOUNDS = {'float32': 1e-4, 'float16': 1e-2, 'bfloat16': 1e-1}
"""Largest relative difference allowed, by the type of the file."""

Say = Callable[[str], None]


@dataclass
class MergeOptions:
    """How a merged checkpoint is written.

    Attributes:
        dtype: Type of the file's parameters: ``'float32'``, ``'float16'``,
            ``'bfloat16'``; ``None`` for the model's own.
        backbone_only: Write the backbone alone.
        layout: ``'stock'``: the keys of the plain config's backbone;
            ``'timm'``: those of ``timm.create_model``.
        size: Height and width of the images that are compared; ``None``:
            what the config crops or pads to, else 256 × 256.
        bound: Largest relative difference with which the file is kept;
            ``None``: of :data:`BOUNDS`, the largest for the file's types.
        seed: Of the images.
    """

    dtype: str | None = None
    backbone_only: bool = False
    layout: str = 'stock'
    size: tuple[int, int] | None = None
    bound: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check options against each other."""
        if self.layout not in ('stock', 'timm'):
            raise ValueError(
                f"--layout is 'stock' or 'timm', got {self.layout!r}."
            )
        if self.layout == 'timm' and not self.backbone_only:
            raise ValueError(
                "--layout timm is the layout of a backbone's weights: add "
                '--backbone-only.'
            )


@dataclass
class MergeReport:
    """What was written.

    Attributes:
        files: The files, the checkpoint first.
        difference: How far the two models are apart.
        seconds: What each step took.
        remarks: What the plain model does otherwise.
    """

    files: list[Path]
    difference: Difference
    seconds: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def merge_checkpoint(
    cfg: Config,
    checkpoint: str,
    out: str | Path,
    out_config: str | Path | None = None,
    options: MergeOptions | None = None,
    say: Say = print,
) -> MergeReport:
    """Write the plain checkpoint of an adapted model, and its plain config.

    The file is read back into the stock model; only if that computes what
    the adapted model did is it given its name.

    Args:
        cfg: The config that the checkpoint was trained with.
        checkpoint: An adapter checkpoint, or a whole one of mmflora.
        out: The file to write.
        out_config: The plain config to write, ``None`` for none.
        options: See :class:`MergeOptions`.
        say: Where progress goes, line by line.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a method cannot be merged, the checkpoint does not
            fit, or the models differ by more than is allowed.  Nothing is
            written then.
    """
    options = options or MergeOptions()
    _check_targets((out, out_config), (checkpoint, cfg.filename))
    plain = plain_config(cfg)
    if options.layout == 'timm':
        timm_arguments(plain.cfg.model.backbone)
    steps = _Steps(say)
    if options.dtype == 'float32':
        _compute_in_float32(plain)
    images = random_images(options.size or image_size(cfg.model), options.seed)
    content, before = _merge(cfg, checkpoint, plain, images, options, steps)
    bound = _bound(content['state_dict'], options)
    with staged_file(out) as partial:
        with steps('write'):
            torch.save(content, partial)
        del content
        gc.collect()  # the adapted model, before there is another
        with steps('read the file into the stock model and run it'):
            after = _stock_outputs(plain, partial, images, options)
        difference = largest_difference(before, after)
        say(str(difference))
        _check(difference, bound)
        files = [Path(out), *(plain.write(out_config) if out_config else ())]
    return MergeReport(files, difference, steps.seconds, plain.remarks)


def _check_targets(
    targets: tuple[str | Path | None, ...],
    sources: tuple[str | Path | None, ...],
) -> None:
    """Refuse to overwrite the input of a merge by its result."""
    kept = {Path(source).resolve() for source in sources if source}
    for target in targets:
        if target and Path(target).resolve() in kept:
            raise ValueError(
                f"'{target}' is an input of the merge, and adapters cannot be "
                'taken out of the result again. Give --out and --out-config '
                'other names.'
            )


def _merge(
    cfg: Config,
    checkpoint: str,
    plain: PlainConfig,
    images: Tensor,
    options: MergeOptions,
    steps: '_Steps',
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the checkpoint's content, and what the adapted model gives."""
    with steps('build the model and load base and adapters'):
        model, trained = load_trained(cfg, checkpoint)
        check_mergeable(model)  # before anything that takes long
        if options.dtype == 'float32':
            model.float()  # before the sum, where the base is narrower
    meta = plain_meta(trained, model, plain.cfg.pretty_text)
    with steps('run the adapted model'):
        outputs = _outputs(model, images, options)
    with steps('merge'):
        dtype = DTYPES.get(options.dtype or '')
        samples = sample_weights(model, dtype)
        state = cast_parameters(merged_state(model), model, dtype)
        lost = check_weights(samples, state)
    if lost:
        steps.say(
            f"Rounding leaves nothing of {len(lost)} adapters' small updates, "
            f"such as '{lost[0]}': --dtype float32 would keep them."
        )
    if options.backbone_only:
        state = backbone_state(state)
    if options.layout == 'timm':
        arguments = timm_arguments(plain.cfg.model.backbone)
        state = timm_state(state, build_timm(arguments))
    return dict(meta=meta, state_dict=state), outputs


def build_stock(cfg: Config, checkpoint: str) -> nn.Module:
    """Build the stock model that a checkpoint becomes when it is merged.

    Args:
        cfg: A config with mmflora's modules, or a plain one.
        checkpoint: Its checkpoint.

    Returns:
        The model without adapters, in evaluation mode.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a method cannot be merged, or something does not fit.
    """
    plain = plain_config(cfg)
    model, _ = load_trained(cfg, checkpoint)
    state = merged_state(model)
    del model
    stock = build_model(plain.cfg)
    load_whole(stock, state, checkpoint)
    return stock.eval()


class _Steps:
    """Says what is done, and keeps how long it took."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        self.say(f'{what} …')
        yield
        self.seconds[what] = time.perf_counter() - started
        self.say(f'    {self.seconds[what]:.1f} s')


def _outputs(
    model: nn.Module, images: Tensor, options: MergeOptions
) -> dict[str, Tensor]:
    if options.layout == 'timm':
        return stage_features(model.get_submodule('backbone'), images)
    return comparable_outputs(model, images, options.backbone_only)


def _stock_outputs(
    plain: PlainConfig, path: Path, images: Tensor, options: MergeOptions
) -> dict[str, Tensor]:
    """Load a file as users will, and return the same outputs."""
    backbone = plain.cfg.model.backbone
    if options.layout == 'timm':
        model = build_timm(timm_arguments(backbone), str(path))
        indices = tuple(backbone.get('out_indices', (0, 1, 2, 3)))
        return timm_features(model, indices, images)
    content = torch.load(path, weights_only=True, mmap=True)
    if options.backbone_only:
        model = build.build_model(plain.cfg, 'model.backbone')
    else:
        model = build_model(plain.cfg)
    load_whole(model, content['state_dict'], str(path))
    del content
    return comparable_outputs(model, images, options.backbone_only)


def _bound(state: dict[str, Tensor], options: MergeOptions) -> float:
    """Return the largest relative difference with which a file is kept."""
    if options.bound is not None:
        return options.bound
    kinds = {
        str(value.dtype).removeprefix('torch.') for value in state.values()
    }
    return max(BOUNDS.get(kind, BOUNDS['float32']) for kind in kinds)


def _compute_in_float32(plain: PlainConfig) -> None:
    """Let a backbone whose weights are narrower keep them as the file does."""
    for _, node in find_dicts(plain.cfg.model, 'model'):
        if node.get('type') == 'PlainInternViT':
            node['dtype'] = None


def _check(difference: Difference, bound: float) -> None:
    if not difference.relative <= bound:
        raise ValueError(
            f'The merged model differs from the adapted one by '
            f'{difference.relative:.2e} of the largest value (in '
            f"'{difference.where}'), more than the {bound:.0e} "
            'that are allowed; the file was not kept. Merge with --dtype '
            'float32, or allow more with --bound.'
        )
