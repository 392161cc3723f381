"""Putting an adapter into a model, with every key accounted for."""

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmflora.checkpoint.keys import (
    compare_keys,
    float_shapes,
    state_shapes,
    without_adapters,
)
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import base_keys
from mmflora.config.build import build_model, read_config

from .adapter import AdapterFile


def apply_adapter(
    model: nn.Module, adapter: AdapterFile, toolkit: str | None = None
) -> nn.Module:
    """Load an adapter with its heads into a model that was built for it.

    Nothing is loaded unless all of it fits.

    Args:
        model: A model of the configuration that the adapter was trained
            with; its base is in place, or comes from where the adapter
            says.
        adapter: The adapter.
        toolkit: The library of the model's task; by default what the
            model's ``cfg`` or the current scope says.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If the base is not in place nor where it should be.
        ValueError: If toolkit, base, settings, keys or shapes differ; all
            that differs is listed.
    """
    check_toolkit(adapter, toolkit or _toolkit_of(model))
    _check_keys(model, adapter)
    # Backbones first: where they refuse, nothing else has been loaded yet.
    load_backbones(model, adapter)
    model.load_state_dict(adapter.state_dict(), strict=False)
    return model


def load_backbones(model: nn.Module, adapter: AdapterFile) -> None:
    """Load an adapter into the backbones of a model, and leave heads alone.

    Raises:
        FileNotFoundError: If the base is not in place nor where it should be.
        ValueError: If base, meaning of the method, keys or shapes differ.
    """
    state = adapter.state_dict()
    for name, (backbone, _) in base_records(model).items():
        prefix = f'{name}.' if name else ''
        own = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        try:
            backbone.load_state_dict(own, strict=False)
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise type(error)(f"'{adapter.path}': {error}") from error


def build_and_check(config: str | Config, adapter: AdapterFile) -> nn.Module:
    """Build the model of a config, and put an adapter into it.

    Returns:
        The model, in evaluation mode, with its config as ``cfg``.

    Raises:
        FileNotFoundError: If the config or the base is missing.
        ValueError: If the adapter does not fit, see :func:`apply_adapter`.
    """
    model = build(config, adapter)
    apply_adapter(model, adapter)
    return model.eval()


def build(config: str | Config, adapter: AdapterFile) -> nn.Module:
    """Build the model of a config, for an adapter to be put into it.

    Raises:
        FileNotFoundError: If the config or the base is missing.
        ValueError: If the adapter is of another toolkit.
    """
    config = read_config(config)
    check_toolkit(adapter, config.get('default_scope'))
    return build_model(config)


def check_toolkit(adapter: AdapterFile, ours: str | None) -> None:
    """Refuse an adapter for a model of another toolkit, where both are known.

    Raises:
        ValueError: If they differ.
    """
    theirs = adapter.config['toolkit']
    if theirs is None or ours is None or theirs == ours:
        return
    raise ValueError(
        f"The adapter '{adapter.path}' belongs to a model of {theirs}, but "
        f'this one is of {ours}: heads and classes mean something else '
        f'there. Use a configuration of {theirs}.'
    )


def _toolkit_of(model: nn.Module) -> str | None:
    config = getattr(model, 'cfg', None)
    if isinstance(config, Mapping) or hasattr(config, 'get'):
        named = config.get('default_scope')  # type: ignore[union-attr]
        if named:
            return str(named)
    current = DefaultScope.get_current_instance()
    return None if current is None else str(current.scope_name)


def _check_keys(model: nn.Module, adapter: AdapterFile) -> None:
    """Compare keys and shapes, before anything is changed.

    Raises:
        ValueError: If the model needs what the adapter lacks or the reverse.
    """
    records = base_records(model)
    described = adapter.config['backbones']
    if records.keys() != described.keys():
        raise ValueError(
            f"The adapter '{adapter.path}' is for the backbone(s) "
            f'{sorted(described)}, but {type(model).__name__} has adapted '
            f'backbone(s) {sorted(records)}. Build the model with the '
            'configuration that the adapter was trained with.'
        )
    base = base_keys(model)
    expected = {
        key: shape
        for key, shape in state_shapes(model).items()
        if key not in base or key in adapter.tensors
    }
    report = compare_keys(float_shapes(adapter.tensors), expected)
    if report:
        settings = [
            part['method'].get('adapter') for part in described.values()
        ]
        raise ValueError(
            f"The adapter '{adapter.path}' does not fit "
            f'{type(model).__name__}:\n{report}\nIt was trained with '
            f'adapter={settings}. Nothing was loaded. Build the model with '
            'the configuration that the adapter was trained with.'
            + ''.join(
                without_adapters(
                    part, adapter.tensors, f'{name}.' if name else ''
                )
                for name, (part, _) in records.items()
            )
        )
