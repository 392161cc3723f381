"""Networks beside a frozen backbone: its features flow in, nothing back."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .base import CannotAdapt
from .blocks import ChannelAdapter, blocks_of, last_weight, output_channels
from .hooks import drop_hook
from .stage_joins import find_joins, note_entering
from .token_maps import as_map, grid_of, watch_grid
from .tuning import is_norm


class Tap(NamedTuple):
    """A block whose output flows into the network beside.

    Attributes:
        block: The block.
        channels: Its width.
        stage: The number of its stage; a plain transformer has one.
    """

    block: nn.Module
    channels: int
    stage: int


class SideNetwork(ChannelAdapter):
    """What networks beside a whole backbone share.

    The frozen backbone runs as if nothing were there: no gradient flows
    through it, so that none of its activations is kept but what flows into
    the network.  That adds to the backbone's outputs.  It stands under
    ``<backbone>.adapter``.

    Args:
        backbone: A backbone that returns one map or several.
        places: Pattern of the names of the blocks, where these are not the
            parents of what is called ``mlp`` or ``ffn``.

    Attributes:
        behind_attention: Whether the sum behind a block's attention flows in,
            too, before the block's output.
        through_stages: Whether it runs what stands between the stages, too.
        taps: The blocks, in their order.
        widths: The width of each block.
        counts: How many maps of each block flow in.
        ends: For each output of the backbone the last block before it.
        joins: What stands between the stages, by the block behind it.

    Raises:
        CannotAdapt: If there is no such block, or nothing to run between
            stages.
    """

    whole_model: ClassVar[bool] = True
    behind_attention: ClassVar[bool] = False
    through_stages: ClassVar[bool] = False
    why_not_mergeable = 'it is a network beside the frozen one'

    def __init__(self, backbone: nn.Module, places: str | None = None) -> None:
        super().__init__(backbone, places)
        taps = find_taps(backbone, places)
        self.ends = _ends(backbone, [tap.stage for tap in taps])
        taps = taps[: max(self.ends) + 1]
        self.widths = [tap.channels for tap in taps]
        blocks = [tap.block for tap in taps]
        vars(self)['taps'] = blocks
        vars(self)['inner'] = [
            _norm_before_mlp(block) if self.behind_attention else None
            for block in blocks
        ]
        stages = [tap.stage for tap in taps] if self.through_stages else []
        vars(self)['joins'] = find_joins(backbone, blocks, stages)
        self.counts = [1 if one is None else 2 for one in vars(self)['inner']]
        self._waiting: list[Tensor] | None = None

    def run(self, features: list[Tensor]) -> list[Tensor]:
        """Return what is added to each output of the backbone.

        Args:
            features: For each tap its maps, shape ``(N, C, H, W)``.

        Returns:
            For each of ``ends`` a map of that tap's shape.
        """
        raise NotImplementedError


def find_taps(model: nn.Module, places: str | None) -> list[Tap]:
    """Find the blocks of a backbone, in their order.

    Raises:
        CannotAdapt: If there is none.
    """
    names = list(blocks_of(model, places or r'(.*\.)?(mlp|ffn)'))
    if places is None:
        parents = (name.rpartition('.')[0] for name in names)
        names = [name for name in dict.fromkeys(parents) if name]
    if not names:
        raise CannotAdapt(
            'it has no blocks with an mlp; name its blocks with `places`'
        )
    stages = [name.rpartition('.')[0] for name in names]
    numbers = list(dict.fromkeys(stages))
    return [
        Tap(
            model.get_submodule(name),
            output_channels(last_weight(model.get_submodule(name))),
            numbers.index(stage),
        )
        for name, stage in zip(names, stages, strict=True)
    ]


def _ends(model: nn.Module, stages: list[int]) -> list[int]:
    """Return the last tap before each output of a backbone.

    ``out_indices`` of a plain transformer count blocks, of others stages, in
    timm's ResNets the stem too.  A model without them has one output.
    """
    last = {stage: index for index, stage in enumerate(stages)}
    ends = list(last.values()) if len(last) > 1 else list(range(len(stages)))
    chosen = getattr(model, 'out_indices', None)
    if chosen is None:
        return ends[-1:]
    chosen = (chosen,) if isinstance(chosen, int) else tuple(chosen)
    count = len(ends)
    places = [index + count if index < 0 else index for index in chosen]
    stem = max(0, max(places) + 1 - count)
    return [ends[index - stem] for index in places if index >= stem]


def _norm_before_mlp(block: nn.Module) -> nn.Module | None:
    """Return what norms the sum behind a block's attention, if any."""
    names = [name for name, _ in block.named_children()]
    attention = [name for name in names if 'attn' in name or 'atten' in name]
    mlps = [name for name in names if name in ('mlp', 'ffn')]
    if not attention or not mlps:
        return None
    between = names[names.index(attention[0]) : names.index(mlps[0])]
    norms = [getattr(block, name) for name in between]
    norms = [module for module in norms if is_norm(module)]
    return norms[-1] if norms else None


def hook_side_network(model: nn.Module, adapter: SideNetwork) -> None:
    """Let a network run beside a backbone."""
    model.register_forward_pre_hook(_begin)
    own = zip(vars(adapter)['taps'], vars(adapter)['inner'], strict=True)
    for index, (block, norm) in enumerate(own):
        vars(block)['tap'] = (model, index, norm)
        block.register_forward_hook(_take, with_kwargs=True)
        if norm is not None:
            norm.register_forward_hook(_note_sum)
    for join in vars(adapter)['joins'].values():
        vars(join)['beside'] = model
        join.register_forward_hook(note_entering, with_kwargs=True)
    model.register_forward_hook(_finish)
    watch_grid(model, model)


def _begin(model: nn.Module, _: Any) -> None:
    if getattr(model, 'adapter_enabled', True):
        adapter: Any = model.adapter
        adapter._waiting = []


def _note_sum(norm: nn.Module, arguments: tuple[Any, ...], _: Any) -> None:
    """Note the sum behind a block's attention, until the block ends."""
    vars(norm)['sum'] = arguments[0]


def _take(
    block: nn.Module,
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    output: Any,
) -> None:
    """Note what a block made; a checkpoint's second pass is passed over."""
    model, index, norm = vars(block)['tap']
    adapter = model.adapter
    found = [] if norm is None else [vars(norm).pop('sum')]
    before = sum(adapter.counts[:index])
    if adapter._waiting is None or len(adapter._waiting) != before:
        return
    made = output if isinstance(output, Tensor) else output[0]
    grid = grid_of(arguments, named, vars(model)['patches'])
    conv = any(isinstance(child, nn.Conv2d) for child in block.children())
    width = adapter.widths[index]
    behind = as_map(made.detach(), width, conv, grid)
    size = (behind.shape[-2], behind.shape[-1])
    adapter._waiting += [
        *(as_map(one.detach(), width, conv, size) for one in found),
        behind,
    ]


def _finish(model: nn.Module, _: Any, output: Any) -> Any:
    """Add what the network made to the backbone's outputs."""
    adapter: Any = model.adapter
    features, adapter._waiting = adapter._waiting, None
    if features is None:
        return None
    single = isinstance(output, Tensor)
    outputs = [output] if single else list(output)
    made = adapter.run(features)[-1 if single else 0 :]
    first = len(outputs) - len(made)  # timm's ResNets return the stem too
    shapes = [tuple(one.shape) for one in made]
    wanted = [tuple(one.shape) for one in outputs[max(0, first) :]]
    if shapes != wanted:
        raise ValueError(
            f'{type(adapter).__name__}: the backbone returns {wanted}, its '
            f'blocks make {shapes}. A network beside it needs a backbone that '
            'returns maps of its blocks, without a pyramid within, and its '
            '`out_indices`.'
        )
    pairs = zip(outputs[first:], made, strict=True)
    sums = [*outputs[:first], *(one + more for one, more in pairs)]
    return sums[0] if single else type(output)(sums)


def unhook_side_network(model: nn.Module) -> None:
    """Take a network's hooks off its backbone."""
    adapter: Any = model.adapter
    own = zip(vars(adapter)['taps'], vars(adapter)['inner'], strict=True)
    for block, norm in own:
        vars(block).pop('tap', None)
        drop_hook(block, _take)
        if norm is not None:
            drop_hook(norm, _note_sum)
            vars(norm).pop('sum', None)
    for join in vars(adapter)['joins'].values():
        drop_hook(join, note_entering)
        vars(join).pop('beside', None)
        vars(join).pop('entered', None)
    drop_hook(model, _begin)
    drop_hook(model, _finish)


def mix_channels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a matrix, shape ``(out, in, 1, 1)``, to the channels of a map."""
    kind = x.dtype
    return F.conv2d(
        x, weight.to(kind), None if bias is None else bias.to(kind)
    )
