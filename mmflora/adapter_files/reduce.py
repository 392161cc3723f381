"""Adapters of lower ranks, made of a file without data."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from mmflora.adapters.lower_ranks import LowerRanks
from mmflora.adapters.ranked import Prefixes, Ranked

from .adapter import ADAPTER_PART, AdapterFile
from .method_options import StoredMethod, layer_options
from .rank_choice import ranks_of_budget, ranks_of_energy
from .restated import restated_method, signature_of


class ReducedLayer(NamedTuple):
    """What a lower rank made of one layer.

    Attributes:
        layer: The layer's name.
        ranks: The trained rank, and the new one.
        parameters: Their numbers of parameters.
        norm: ‖ΔW‖, ``None`` where the update is not in the file alone.
        error: ‖ΔW − ΔW_r‖, ``None`` as ``norm``.
    """

    layer: str
    ranks: tuple[int, int]
    parameters: tuple[int, int]
    norm: float | None
    error: float | None


def reduce_ranks(
    adapter: AdapterFile,
    *,
    prefix: bool = False,
    rank: int | None = None,
    budget: int | None = None,
    energy: float | None = None,
    ranks: Mapping[str, int] | None = None,
    kernel_rank: int | None = None,
) -> tuple[AdapterFile, list[ReducedLayer]]:
    """Return an adapter with lower ranks in its layers.

    It is a plain adapter over the same base.  Output norms, neck, heads and
    statistics are the adapter's own.

    Args:
        adapter: An adapter whose layers have ranks.
        prefix: Keep the leading components as they were trained; else take
            the nearest update of a rank.
        rank: The rank of all layers, those of a lower one excepted.
        budget: Instead, the most parameters of all layers together; they go
            where they keep most of Σ ‖ΔW‖².
        energy: Instead, the part of ‖ΔW‖² that each layer keeps at least.
        ranks: Instead, the rank of each layer; one of rank 0 loses its
            adapter.
        kernel_rank: The rank of a kernel's modes; by default as trained.

    Returns:
        The adapter, and a row for each layer.

    Raises:
        ValueError: If not one of rank, budget and energy is given, if it is
            out of range, or a layer has an adapter without ranks.
    """
    sizes = (rank, budget, energy, ranks)
    if sum(one is not None for one in sizes) != 1:
        raise ValueError(
            'Give one of rank, budget and energy: rank=8 for all layers, '
            'budget=200000 parameters in all, or energy=0.9 of each update; '
            'or ranks, one for each layer.'
        )
    layers = lower_ranks_of(adapter, prefix, kernel_rank)
    if ranks is not None:
        ranks = _checked_ranks(adapter, layers, ranks)
    elif rank is not None:
        ranks = _checked_rank(adapter, layers, rank)
    else:
        _check_known(adapter, layers)
        ranks = (
            ranks_of_energy(layers, energy)
            if energy is not None
            else ranks_of_budget(layers, int(budget or 0))
        )
    rows = _rows(adapter, layers, ranks)
    return _reduced(adapter, layers, ranks), rows


def lower_ranks_of(
    adapter: AdapterFile, prefix: bool, kernel_rank: int | None = None
) -> dict[str, Ranked]:
    """Return what can be made of each layer.

    Raises:
        ValueError: If a layer's method has no ranks; it is named.
    """
    found = {}
    for layer, tensors in adapter.layers().items():
        method = _method(adapter, layer)
        reader: Any = method.reader
        if not issubclass(reader, LowerRanks):
            raise ValueError(
                f"'{adapter.path}': layer '{layer}' has an adapter of type "
                f'{method.name}, of which no lower rank can be made. Those '
                'of LoRA, FLoRA and other products of factors have one, see '
                '`Lower ranks` in docs/adapters-as-files.md.'
            )
        make: Any = reader.nearest
        given: tuple[Any, ...] = (tensors, method.settings, kernel_rank)
        if prefix:
            make, given = Prefixes, (reader, *given)
        try:
            found[layer] = make(*given)
        except (ValueError, TypeError) as error:
            raise type(error)(
                f"'{adapter.path}': layer '{layer}': {error}"
            ) from error
    if not found:
        raise ValueError(
            f"'{adapter.path}' has no layer with an adapter, so there is no "
            "rank to lower: it trains the base's own parameters, or nothing."
        )
    return found


def _method(adapter: AdapterFile, layer: str) -> StoredMethod:
    return StoredMethod.of(layer_options(adapter, layer))


def _checked_rank(
    adapter: AdapterFile, layers: Mapping[str, Ranked], rank: int
) -> dict[str, int]:
    largest = max(one.largest for one in layers.values())
    if not 1 <= rank <= largest:
        raise ValueError(
            f"'{adapter.path}': rank {rank} cannot be made of its updates, "
            f'whose largest rank is {largest}. Give a number from 1 to '
            f'{largest}; to leave an adapter out, train with `exclude`.'
        )
    return {name: min(rank, one.largest) for name, one in layers.items()}


def _checked_ranks(
    adapter: AdapterFile,
    layers: Mapping[str, Ranked],
    ranks: Mapping[str, int],
) -> dict[str, int]:
    """Check ranks of each layer, of which a backbone keeps at least one."""
    for name, one in layers.items():
        if name not in ranks or not 0 <= ranks[name] <= one.largest:
            raise ValueError(
                f"'{adapter.path}': `ranks` gives layer '{name}' "
                f'{ranks.get(name, "none")}: give each layer a rank from 0, '
                f'for no adapter, to its own, {one.largest} here.'
            )
    for backbone in adapter.config['backbones']:
        prefix = f'{backbone}.' if backbone else ''
        own = [ranks[name] for name in layers if name.startswith(prefix)]
        if own and not any(own):
            raise ValueError(
                f"'{adapter.path}': `ranks` leaves no adapter in "
                f"'{backbone}'. Give at least one of its layers a rank."
            )
    return {name: ranks[name] for name in layers}


def _check_known(adapter: AdapterFile, layers: Mapping[str, Ranked]) -> None:
    """Check that errors of lower ranks can be told."""
    for name, one in layers.items():
        if one.total is None or (
            isinstance(one, Prefixes) and one.trained.scaled_by_rank(one.given)
        ):
            kind = _method(adapter, name).name
            why = 'its prefixes are scaled by their rank'
            if one.total is None:
                why = 'its update is not in the file alone'
            raise ValueError(
                f"'{adapter.path}': layer '{name}' has an adapter of type "
                f'{kind}; {why}, so that what a rank keeps '
                'of it is not known. Give a rank instead of a budget or an '
                'energy.'
            )


def _rows(
    adapter: AdapterFile,
    layers: Mapping[str, Ranked],
    ranks: Mapping[str, int],
) -> list[ReducedLayer]:
    stored, rows = adapter.layers(), []
    for name, one in layers.items():
        method, rank = _method(adapter, name), ranks[name]
        reader: Any = method.reader
        shape = reader.stored_shape(stored[name], method.settings)
        trained = dict(reader.blank(shape, method.settings).named_parameters())
        norm = error = None
        if one.total is not None:
            norm = one.total**0.5
            kept = one.kept(rank) if rank else 0.0
            error = max(one.total - kept, 0.0) ** 0.5
        rows.append(
            ReducedLayer(
                name,
                (reader.trained_rank(method.settings), rank),
                (
                    sum(stored[name][key].numel() for key in trained),
                    one.parameters(rank) if rank else 0,
                ),
                norm,
                error,
            )
        )
    return rows


def _reduced(
    adapter: AdapterFile,
    layers: Mapping[str, Ranked],
    ranks: Mapping[str, int],
) -> AdapterFile:
    options = {
        name: dict(type=one.method.__name__, **one.settings(ranks[name]))
        for name, one in layers.items()
        if ranks[name]
    }
    tensors: dict[str, Tensor] = {}
    waiting = set(options)
    for key, value in adapter.tensors.items():
        name = key.split(f'.{ADAPTER_PART}.')[0]
        if name == key or name not in layers:
            tensors[key] = value
        elif name in waiting:  # at the place of the old ones
            waiting.remove(name)
            for own, found in layers[name].tensors(ranks[name]).items():
                lower = found.to(value.dtype).contiguous()
                tensors[f'{name}.{ADAPTER_PART}.{own}'] = lower
    backbones = {
        name: _restated(adapter, name, options)
        for name in adapter.config['backbones']
    }
    config = {**adapter.config, 'backbones': backbones, 'metrics': {}}
    reduced = AdapterFile(config, tensors, adapter.path)
    for name, backbone in backbones.items():
        backbone['method']['signature'] = signature_of(reduced, name)
    return reduced


def _restated(
    adapter: AdapterFile, name: str, options: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return a backbone's description with the new settings.

    Raises:
        ValueError: If the old ones do not say what its tensors mean.
    """
    backbone = adapter.config['backbones'][name]
    prefix = f'{name}.' if name else ''
    before = backbone.get('layers') or ()
    own = {
        layer: options[prefix + layer]
        for layer in before
        if prefix + layer in options
    }
    method = {**backbone['method']}
    if method.get('signature') != signature_of(adapter, name):
        raise ValueError(
            f"'{adapter.path}': the settings of its layers cannot be restated "
            'from the file, so no lower rank can be described. Take an '
            'adapter that was exported from its checkpoint.'
        )
    if not own:
        return {**backbone, 'method': method}
    method = restated_method(backbone, own, named=len(own) < len(before))
    return {**backbone, 'method': method, 'layers': list(own)}
