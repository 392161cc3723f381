"""What a weighted sum of adapters is, method by method.

A rule makes one layer's tensors of those of several adapters, and says which
settings the sum has.  Where the update is linear in something that the files
hold, Σ w_i ΔW_i is an adapter of the same method, exactly:

========================= ==================================================
FLoRA                     cores as blocks of one core, factors side by side
LoRA, PiSSA, OLoRA        B side by side, A below each other; PiSSA's and
(peft's LORA, too)        OLoRA's starts likewise
LoRAXS                    cores add up, over the same frozen vectors
SSF                       γ = 1 + Σ w_i (γ_i - 1), β = Σ w_i β_i
BitFit, NormTuning, Full  the parameters' means; the weights sum to 1, as the
                          base's own values are not in the files
========================= ==================================================

DoRA divides by norms of the sum, and other methods multiply: of these no
weighted sum is an adapter of the method.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmflora.adapter_files.method_options import method_name
from mmflora.adapter_files.stored_updates import (
    DOWN,
    UP,
    peft_scale,
    restored,
    weight_shape,
)
from mmflora.adapter_files.updates import TuckerUpdate, weighted_sum
from mmflora.registry import ADAPTERS

Options = Mapping[str, Any]


class Part(NamedTuple):
    """One layer of one adapter of a sum.

    Attributes:
        weight: The factor w_i.
        tensors: By their names in the adapter.
        options: The method's settings.
    """

    weight: float
    tensors: Mapping[str, Tensor]
    options: Options


class Rule(NamedTuple):
    """How adapters of one method are summed.

    Attributes:
        settings: What changes of the settings, given those of all parts.
        tensors: The sum's tensors, given its parts and its settings.
    """

    settings: Callable[[Sequence[Options]], dict[str, Any]]
    tensors: Callable[[Sequence[Part], Options], dict[str, Tensor]]


def _empty(options: Options, shape: Sequence[int] = (1, 1)) -> Any:
    """Return an adapter of some settings, on a weight without values."""
    settings = {k: v for k, v in options.items() if k != 'type'}
    return _kind(options)(torch.empty(*shape, device='meta'), **settings)


def _kind(options: Options) -> Any:
    return ADAPTERS.get(method_name(dict(options)))


def _setting(options: Options, name: str) -> Any:
    """Return a setting, or its default."""
    default = inspect.signature(_kind(options)).parameters[name].default
    return options.get(name, default)


def layer_signature(tensors: Mapping[str, Tensor], options: Options) -> str:
    """Restate the signature of one layer's adapter.

    Args:
        tensors: Its tensors by their names in the adapter.
        options: The method's settings.
    """
    name = method_name(dict(options))
    if name.startswith('HFPEFT '):
        shown = [
            f'{key}={value!r}'
            for key, value in sorted(options.items())
            if key not in ('type', 'peft_type') and 'dropout' not in key
        ]
        return f'HFPEFT({", ".join([name.partition(" ")[2], *shown])})'
    if name == 'SSF':
        options = {**options, 'shift': 'shift' in tensors}
    shape = weight_shape(tensors, options)
    return str(_empty(options, shape).signature())


def _flora_ranks(options: Sequence[Options]) -> dict[str, Any]:
    ranks = [_setting(option, 'rank') for option in options]
    kernels = [_setting(option, 'kernel_rank') for option in options]
    if all(isinstance(rank, list | tuple) for rank in ranks):
        return dict(rank=[sum(modes) for modes in zip(*ranks, strict=True)])
    if any(isinstance(rank, list | tuple) for rank in ranks):
        raise ValueError(
            f'The adapters give their ranks as {ranks}: a sum needs either a '
            'number from all of them or a list from all of them.'
        )
    return dict(rank=sum(ranks), kernel_rank=sum(kernels))


def _flora_tensors(
    parts: Sequence[Part], options: Options
) -> dict[str, Tensor]:
    made = [restored(part.tensors, part.options) for part in parts]
    updates = [
        TuckerUpdate(one.scale * one.core, tuple(one.factors)) for one in made
    ]
    total = weighted_sum(updates, [part.weight for part in parts])
    found = {'core': total.core / _empty(options, total.shape).scale}
    for mode, factor in enumerate(total.factors):
        found[f'factors.{mode}'] = factor
    return found


def _lora_ranks(options: Sequence[Options]) -> dict[str, Any]:
    forms = {option.get('form', 'spatial') for option in options}
    if len(forms) != 1:
        raise ValueError(
            f"The adapters have LoRA's forms {sorted(forms)}: only those of "
            'one form can be summed.'
        )
    return dict(rank=sum(_empty(option).rank for option in options))


def _lora_tensors(
    parts: Sequence[Part], options: Options
) -> dict[str, Tensor]:
    made = [restored(part.tensors, part.options) for part in parts]
    scale = _empty(options).scale
    shares = [
        part.weight * one.scale / scale
        for part, one in zip(parts, made, strict=True)
    ]
    found = {}
    names = ('up', 'down'), ('start_up', 'start_down')
    limit = _inner_limit(parts[0])
    for up, down in names[: 1 + hasattr(made[0], 'start_up')]:
        left = torch.cat(
            [w * getattr(m, up) for w, m in zip(shares, made, strict=True)], 1
        )
        right = torch.cat([getattr(one, down) for one in made])
        found[up], found[down] = _fit(left, right, limit)
    return found


def _inner_limit(part: Part) -> int:
    """Return the rank at which a method clips the product of factors."""
    if part.options.get('form') == 'loralib':
        return 2**62
    out, *rest = weight_shape(part.tensors, part.options)
    return min(out, math.prod(rest))


def _fit(left: Tensor, right: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return a product's factors with an inner size of at most a limit.

    The limit is the smaller side of the product, so that nothing is lost.
    """
    if left.shape[1] <= limit:
        return left, right
    whole = left @ right.flatten(1)
    if limit == len(left):
        return torch.eye(limit, dtype=left.dtype), whole.view(
            limit, *right.shape[1:]
        )
    unit = torch.eye(limit, dtype=left.dtype)
    return whole, unit.view(limit, *right.shape[1:])


def _same_rank(options: Sequence[Options]) -> dict[str, Any]:
    ranks = {_empty(option).rank for option in options}
    if len(ranks) != 1:
        raise ValueError(
            f'The adapters have the ranks {sorted(ranks)}: sums of LoRAXS '
            'need one rank, as they keep its frozen singular vectors.'
        )
    return {}


def _xs_tensors(parts: Sequence[Part], options: Options) -> dict[str, Tensor]:
    first = parts[0].tensors
    for part in parts:
        if not all(
            torch.equal(part.tensors[name], first[name])
            for name in ('left', 'right')
        ):
            raise ValueError(
                'The adapters stand on different singular vectors, as another '
                'machine may find them: their LoRAXS cores have no sum.'
            )
    scale = _empty(options).scale
    core = sum(
        part.weight
        * _empty(part.options).scale
        / scale
        * part.tensors['core'].double()
        for part in parts
    )
    return dict(
        core=torch.as_tensor(core), left=first['left'], right=first['right']
    )


def _ssf_tensors(parts: Sequence[Part], options: Options) -> dict[str, Tensor]:
    names = {frozenset(part.tensors) for part in parts}
    if len(names) != 1:
        raise ValueError(
            'Some of the adapters shift a layer and others do not: only SSF '
            'of one setting can be summed.'
        )
    start = dict(scale=1.0, shift=0.0)
    total = {
        name: sum(
            part.weight * (part.tensors[name].double() - start[name])
            for part in parts
        )
        for name in parts[0].tensors
    }
    return {
        name: torch.as_tensor(value + start[name])
        for name, value in total.items()
    }


def _peft_ranks(options: Sequence[Options]) -> dict[str, Any]:
    if any(option.get('use_dora') for option in options):
        raise ValueError(
            "peft's LoRA with use_dora divides by norms of the sum: it has no "
            'weighted sum. Merge the adapters one by one instead.'
        )
    return dict(r=sum(option.get('r', 8) for option in options))


def _peft_tensors(
    parts: Sequence[Part], options: Options
) -> dict[str, Tensor]:
    names = set().union(*(part.tensors for part in parts))
    if not {DOWN, UP} <= names <= {DOWN, UP, 'lora_B.default.bias'}:
        raise ValueError(
            f'A layer has the tensors {sorted(names)}: of peft, LoRAs of '
            'linear layers and convolutions are summed.'
        )
    scale = peft_scale(options)
    shares = [part.weight * peft_scale(part.options) / scale for part in parts]
    found = {
        DOWN: torch.cat([part.tensors[DOWN].double() for part in parts]),
        UP: torch.cat(
            [
                share * part.tensors[UP].double()
                for share, part in zip(shares, parts, strict=True)
            ],
            1,
        ),
    }
    for name in names - {DOWN, UP}:
        found[name] = torch.as_tensor(
            sum(
                share * part.tensors[name].double()
                for share, part in zip(shares, parts, strict=True)
            )
        )
    return found


def _unchanged(_: Sequence[Options]) -> dict[str, Any]:
    return {}


RULES = {
    'FLoRA': Rule(_flora_ranks, _flora_tensors),
    'LoRA': Rule(_lora_ranks, _lora_tensors),
    'PiSSA': Rule(_lora_ranks, _lora_tensors),
    'OLoRA': Rule(_lora_ranks, _lora_tensors),
    'LoRAXS': Rule(_same_rank, _xs_tensors),
    'SSF': Rule(_unchanged, _ssf_tensors),
    'HFPEFT LORA': Rule(_peft_ranks, _peft_tensors),
}
"""The rules by the names of methods."""
