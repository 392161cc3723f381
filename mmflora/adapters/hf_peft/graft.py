"""Peft's own layers around layers that stay where they are.

Peft replaces a layer by a wrapper, which renames its keys.  Here the wrapper
goes around a *shadow*: an object of the layer's class that holds the very
parameters of the layer and is no part of the model.  The wrapper's own
parameters then become the layer's adapter.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from .catalogue import load_peft

# Of a layer, its shadow shares the dicts of parameters and buffers: whatever
# is loaded, moved or replaced there, both see it, copies of both too.
_SHARED = ('_parameters', '_buffers', '_non_persistent_buffers_set')
NAME = 'default'


def shadow_of(layer: nn.Module) -> nn.Module:
    """Return a layer's shadow: same class, same parameters, no hooks."""
    shadow = type(layer).__new__(type(layer))
    own = {
        key: value
        for key, value in vars(nn.Module()).items()
        if key not in _SHARED
    }
    # Through __dict__: nn.Module would refuse or register some of them.
    shadow.__dict__.update({**vars(layer), **own, 'training': layer.training})
    return shadow


def wrap(config: Any, shadows: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Let peft put its layers around shadows.

    All layers are seen at once, as methods may share parameters among them.

    Returns:
        What stands in the shadows' places: peft's layers, or the shadows
        themselves where peft passed them over.

    Raises:
        Exception: Of any type, where peft refuses.
    """
    peft = load_peft()
    tuner = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    tree = _tree(shadows)
    with _quiet():
        # Casts as PeftModel does: half-precision adapters to float32.
        tuner(tree, config, NAME)._cast_adapter_dtype(NAME, True)
    return {name: tree.get_submodule(name) for name in shadows}


def detach(layers: Mapping[str, Any]) -> None:
    """Make peft's layers fit for being the adapters of their base layers.

    The base layers leave the modules, so that no key names them; parameters
    that do not train become buffers; what layers share stays registered in
    the first of them alone, so that files hold it once.
    """
    owned: set[Any] = set()
    for layer in layers.values():
        for name, value in list(vars(layer).items()):
            if isinstance(value, nn.Module):  # FRoD keeps its bases aside
                layer._modules[name] = layer.__dict__.pop(name)
        layer.__dict__['base_layer'] = layer._modules.pop('base_layer')
        for name, child in list(layer._modules.items()):
            if _is_owned(child, owned):
                layer.__dict__[name] = layer._modules.pop(name)
        owned.update(layer.modules(), layer.parameters())
    for layer in layers.values():
        # By peft's own lists; a cast of its makes some of them require it.
        for name in layer.other_param_names:
            if isinstance(layer._modules.get(name), nn.Module):
                layer._modules[name].requires_grad_(False)
        for module in layer.modules():
            _freeze(module)


def _is_owned(child: nn.Module, owned: set[Any]) -> bool:
    """Return whether all that a module holds is registered elsewhere.

    A module of its own with a buffer of another is not: buffers are replaced
    when a model moves.
    """
    if child in owned:
        return True
    parameters = list(child.parameters())
    return (
        bool(parameters)
        and owned.issuperset(parameters)
        and not any(True for _ in child.buffers())
    )


def _freeze(module: nn.Module) -> None:
    """Turn frozen parameters into buffers, and let buffers be saved."""
    for name, parameter in list(module._parameters.items()):
        if parameter is not None and not parameter.requires_grad:
            del module._parameters[name]
            module.register_buffer(name, parameter.detach())
    module._non_persistent_buffers_set.clear()
    if hasattr(module, 'persistent'):  # of peft's BufferDict
        vars(module)['persistent'] = True


def _tree(layers: Mapping[str, nn.Module]) -> nn.Module:
    """Hang layers under their dotted names into empty modules."""
    root = nn.Module()
    for name, layer in layers.items():
        *parents, last = name.split('.')
        node = root
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, nn.Module())
            node = node._modules[parent]  # type: ignore[assignment]
        node.add_module(last, layer)
    return root


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep peft's hints for language models and its progress bars back."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter('ignore')
        yield
