"""Updates read from the tensors of a file, without a model."""

from mmflora.adapters.updates import Update

from .adapter import AdapterFile
from .method_options import StoredMethod, common_options, layer_options


def stored_updates(adapter: AdapterFile) -> dict[str, Update]:
    """Return the updates in a file by the names of their layers.

    Each method says how its tensors are read, see
    :class:`mmflora.adapters.stored.Stored`.

    Raises:
        ValueError: If a layer has an adapter whose update depends on the
            frozen weight, which the file does not hold.
    """
    found = {}
    for layer, tensors in adapter.layers().items():
        try:
            method = StoredMethod.of(layer_options(adapter, layer))
            update = method.reader.stored_update(tensors, method.settings)
        except (ValueError, TypeError) as error:
            raise type(error)(f"'{adapter.path}': {error}") from error
        if update is None:
            raise ValueError(
                f"'{adapter.path}': layer '{layer}' has an adapter of type "
                f'{method.name}, whose update is not in the file alone. With '
                '--config, the config that it was trained with, the model is '
                'built and asked for its updates, whatever the method.'
            )
        found[layer] = update
    if not found:
        kinds = [
            str(common_options(backbone).get('type'))
            for backbone in adapter.config['backbones'].values()
        ]
        raise ValueError(
            f"'{adapter.path}' has no layers with an adapter "
            f"({', '.join(kinds)} trains the base's own parameters, or "
            'nothing): its changes are seen against the base alone. Give '
            '--config, the config that it was trained with.'
        )
    return found
