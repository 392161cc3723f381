"""FLoRA adapters in the keys of the method's authors.

Their layers keep the core as ``<layer>.flora_layer.param_G`` and the factor
of mode n as ``<layer>.flora_layer.param_<n>``.  The paper names the modes in
the order input, output, kernel (eq. 5); weights have the output first.  Which
order a file has is seen from the sizes of its factors.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmflora.adapters import FLoRA, adapted_layers
from mmflora.files.training_checkpoints import load_checkpoint

from .formats import FORMATS, Format

_KEY = re.compile(r'(.+)\.flora_layer\.param_(G|\d+)')
Parts = dict[str, Tensor]


@torch.no_grad()
def load_authors_flora(
    backbone: nn.Module, state: Mapping[str, Tensor], prefix: str = ''
) -> list[str]:
    """Load the authors' adapters into a backbone with FLoRA adapters.

    Their scale is no part of the state dict: the backbone's own counts.

    Args:
        backbone: With FLoRA adapters of the same ranks on the same layers.
        state: The authors' state dict; keys without ``flora_layer`` are not
            looked at.
        prefix: What stands before the layers' names in it.

    Returns:
        The names of the layers.

    Raises:
        ValueError: If layers or shapes differ, a core lacks a factor, or
            the order of the modes cannot be seen; nothing has changed then.
    """
    found = _layers(state, prefix)
    layers = adapted_layers(backbone)
    if not found or found.keys() != layers.keys():
        apart = sorted(found.keys() ^ layers.keys())
        raise ValueError(
            f'The file has FLoRA layers {_few(found)}, the model '
            f'{_few(layers)}; {len(apart)} stand in one alone, such as '
            f'{apart[:3]}. Set `targets`, or the prefix of the keys.'
        )
    swapped = _input_first(found, {k: layers[k].base_weight() for k in found})
    ready: list[tuple[Tensor, Tensor]] = []
    for name, parts in found.items():
        core = parts['G']
        factors = [parts[str(mode)] for mode in range(core.dim())]
        if swapped:
            core = core.transpose(0, 1)
            factors[:2] = factors[1::-1]
        adapter, theirs = layers[name].adapter, [core, *factors]
        ours: list[Tensor] = []
        if isinstance(adapter, FLoRA):
            ours = [adapter.core, *adapter.factors]
        shapes = [[tuple(t.shape) for t in some] for some in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Layer '{name}': the file's core and factors have shapes "
                f"{shapes[0]}, the model's adapter has {shapes[1]}. Set the "
                "rank of the model's FLoRA to the file's."
            )
        ready += zip(ours, theirs, strict=True)
    for parameter, value in ready:
        parameter.copy_(value)
    return list(found)


def authors_prefix(backbone: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return what stands before the layers' names in a state dict.

    Args:
        backbone: With FLoRA adapters.
        state: Of the backbone alone, or of a model or wrapper around it.

    Returns:
        Such as ``'backbone.'``; ``''`` also where nothing is found.
    """
    first = next(iter(adapted_layers(backbone)), '')
    ending = f'{first}.flora_layer.param_G'
    found = sorted(
        (key.removesuffix(ending) for key in state if key.endswith(ending)),
        key=len,
    )
    return found[0] if found and found[0][-1:] in ('', '.') else ''


def _layers(state: Mapping[str, Tensor], prefix: str) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key.removeprefix(prefix))
        if match and key.startswith(prefix):
            found.setdefault(match[1], {})[match[2]] = value
    for name, parts in found.items():
        modes = parts['G'].dim() if 'G' in parts else 0
        wanted = {'G', *map(str, range(modes))}
        if parts.keys() != wanted:
            raise ValueError(
                f"Layer '{name}' has the parameters {sorted(parts)}; a core "
                f'of {modes} modes needs {sorted(wanted)}. The file is '
                'incomplete.'
            )
    return found


def _input_first(
    found: Mapping[str, Parts], weights: Mapping[str, Tensor]
) -> bool:
    """Return whether factors stand in the order input, output."""
    seen: set[bool] = set()
    for name, parts in found.items():
        sizes = len(parts['0']), len(parts['1'])
        shape = tuple(weights[name].shape[:2])
        if sizes not in (shape, shape[::-1]):
            raise ValueError(
                f"Layer '{name}': the first two factors have {sizes} rows, "
                f'but its weight has {shape} channels (output, input).'
            )
        if shape[0] != shape[1]:
            seen.add(sizes == shape[::-1])
    if len(seen) != 1:
        reason = 'all weights are square' if not seen else 'layers disagree'
        raise ValueError(
            'It cannot be seen whether the factors stand in the order '
            f'output, input: {reason}. Add a layer whose weight is not '
            'square, or fix the file.'
        )
    return seen.pop()


def _few(names: Mapping[str, object]) -> str:
    listed = list(names)
    return f'{listed[:3]} ({len(listed)} in all)'


def _read(backbone: nn.Module, path: str) -> None:
    state = load_checkpoint(path, bare=True)['state_dict']
    load_authors_flora(backbone, state, authors_prefix(backbone, state))


FORMATS['authors'] = Format(_read)
