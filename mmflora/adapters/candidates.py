"""Which parts of a model a method deals with."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .base import Adapter, AdapterBase, CannotAdapt
from .block_hooks import sum_around
from .blocks import BlockAdapter, blocks_of
from .layers import AdaptedLayer, why_not_adapted
from .side_network import SideNetwork
from .tuning import Tuning

Candidates = dict[str, tuple[nn.Module, str]]

# Children whose weights their parent hands to a fused kernel.
_READ: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: ('out_proj',),
    nn.TransformerEncoderLayer: ('linear1', 'linear2'),
}

# mmcv's ConvModule multiplies the kernel by its norm's scale, if it has this.
_FUSED_IF = 'efficient_conv_bn_eval_forward'

# EVA and BEiT read it to add biases; without these they call the layer.
_CALLED_WITHOUT = re.compile(r'if self\.(\w+) is None:\s+\w+ = self\.(\w+)\(')

# What is called before or after training alone may read what it likes.
_AT_START = re.compile('init|reset|load|convert|fuse|deploy|reparam')


class Survey:
    """Finds what methods deal with in a model; walks through it once.

    Weight adapters deal with layers, tuning methods with modules that have
    parameters of theirs to train, block adapters with blocks.

    Attributes:
        read: See :func:`read_layers`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.read = read_layers(model)
        self._modules = _modules(model)
        self._reasons: dict[str, str] = {}
        self._blocks: dict[tuple[str, bool], Candidates] = {}

    def candidates(
        self, method: type, options: Mapping[str, Any]
    ) -> Candidates:
        """Map the name of each part to it and to why it cannot be adapted.

        Raises:
            TypeError: If it is no method.
        """
        if issubclass(method, Tuning):
            tuning = method(**options)
            return {
                name: (module, '')
                for name, module in self._modules.items()
                if tuning.parameters_of(module)
            }
        if issubclass(method, SideNetwork):
            return {'': (self.model, _why_no_block(self.model))}
        if issubclass(method, BlockAdapter):
            places = options.get('places') or method.places
            key = (places, method.at_sum)
            if key not in self._blocks:
                found = blocks_of(self.model, places)
                self._blocks[key] = {
                    name: (block, self._why_no_block(block, method.at_sum))
                    for name, block in found.items()
                }
            if not self._blocks[key]:
                raise ValueError(
                    f'{method.__name__}: `places` is {places!r}, which '
                    f'matches none of the modules of '
                    f'{type(self.model).__name__}. The method adapts blocks '
                    'of these names; if the model has such blocks by other '
                    'names, give them as `places`.'
                )
            return self._blocks[key]
        if issubclass(method, Adapter):
            return {
                name: (layer, self._why_not(name, layer, method))
                for name, layer in self._modules.items()
                if method.looks_at(layer, **options)
            }
        raise TypeError(
            f'{method.__name__} is registered as an adapter, but is no '
            'subclass of Adapter, Tuning or BlockAdapter.'
        )

    def _why_no_block(self, block: nn.Module, at_sum: bool) -> str:
        """Return why a block cannot have an adapter, or ``''``."""
        reason = _why_no_block(block)
        if at_sum and not reason:
            try:
                sum_around(block, self.model)
            except CannotAdapt as error:
                reason = str(error)
        return reason

    def _why_not(
        self, name: str, layer: nn.Module, method: type[Adapter]
    ) -> str:
        """Return why a weight adapter cannot serve a layer, or ``''``."""
        own_class = method.layer_class is not Adapter.layer_class
        reason = ''
        if isinstance(layer, AdaptedLayer) or not own_class:
            if name not in self._reasons:
                self._reasons[name] = why_not_adapted(layer)
            reason = self._reasons[name]
        if not reason and name in self.read and own_class:
            reason = f'{self.read[name]} reads its weight without calling it'
        return reason


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that are the model's own, by name."""
    found = {}
    added: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, AdapterBase):
            added.append(f'{name}.')
        elif not name.startswith(tuple(added)):
            found[name] = module
    return found


def _why_no_block(block: nn.Module) -> str:
    own = block._modules.get('adapter')
    if isinstance(own, AdapterBase):
        return 'it already has an adapter'
    if isinstance(block, (nn.Sequential, nn.ModuleList)):
        return f'a {type(block).__name__} would run the adapter as a layer'
    return '' if own is None else "it has a child 'adapter' of its own"


def read_layers(model: nn.Module) -> dict[str, str]:
    """Map each layer whose parent reads its weight to the parent's class."""
    read: dict[str, str] = {}
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        kind: Any = getattr(module, 'stock_class', type(module))
        children = _read_children(kind)
        for parent, names in _READ.items():
            if isinstance(module, parent):
                children = {**children, **dict.fromkeys(names, '')}
        if hasattr(module, _FUSED_IF):
            children = {**children, 'conv': _FUSED_IF}
        for child, condition in children.items():
            if condition and getattr(module, condition, '') is None:
                continue
            if isinstance(getattr(module, child, None), nn.Module):
                read[prefix + child] = kind.__name__
    return read


def _read_children(kind: type[nn.Module]) -> dict[str, str]:
    """Find children whose weight a class itself reads when it computes.

    ``F.linear(x, self.qkv.weight, bias)``, as BEiT and Swin V2 have it, goes
    past the layer and so past its adapter.

    Returns:
        Each child, with the attribute without which it is called after all.
    """
    found: dict[str, str] = {}
    for base in kind.__mro__:
        for name, function in vars(base).items():
            code: Any = getattr(function, '__code__', None)
            if code is None or 'weight' not in code.co_names:
                continue
            if not _AT_START.search(name) and not name.startswith('__'):
                for child, condition in _read_in(function).items():
                    same = found.get(child, condition) == condition
                    found[child] = condition if same else ''
    return found


@functools.cache
def _read_in(function: Callable[..., Any]) -> dict[str, str]:
    """Find children whose weight a method reads; see above."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return {}
    called = {
        child: condition
        for condition, child in _CALLED_WITHOUT.findall(source)
    }
    children = re.findall(
        r'\bself\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|size|dim)\b)',
        source,
    )
    return {child: called.get(child, '') for child in children}
