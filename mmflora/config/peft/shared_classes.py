"""Which classes of a base's file stay classes of a config."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from mmflora.checkpoint.keys import KeyReport
from mmflora.files.sources import (
    find_source,
    is_local,
    is_sharded,
    read_file,
)
from mmflora.models.kept_classes import KeptClasses

from ..classes import training_classes
from .changes import Change


def keep_classes(
    cfg: Config,
    node: Any,
    place: str,
    source: Mapping[str, Any],
    report: KeyReport,
) -> list[Change]:
    """Declare which classes of the base stay, where weights change shape.

    Args:
        cfg: The config, whose training data name its classes.
        node: The model's dict; it is changed.
        place: Where it stands.
        source: The ``init_cfg`` of the base.
        report: What of the file has another shape.

    Returns:
        What was changed.
    """
    if not report.mismatched:
        return []
    ours, theirs = training_classes(cfg), classes_of_base(source)
    where = {name: index for index, name in enumerate(theirs)}
    kept = KeptClasses(len(theirs), [where.get(name) for name in ours])
    stay = [name for name in ours if name in where]
    weights = [
        key
        for key, (old, new) in report.mismatched.items()
        if kept.places(key, old, new)
    ]
    if not weights:
        return []
    node['kept_classes'] = dict(count=kept.count, rows=kept.rows)
    why = (
        f'classes of the file, which keep their rows of {len(weights)} '
        f"weights, such as '{weights[0]}'"
    )
    return [Change(f'{place}.kept_classes', None, ', '.join(stay), why)]


def classes_of_base(source: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes that a checkpoint was trained for.

    Returns:
        Nothing where the file does not say.
    """
    place = find_source(source['checkpoint'])
    if is_local(place) and (is_sharded(place) or place.endswith('tensors')):
        return ()
    if is_local(place):
        content = read_file(place, 'meta')
    else:
        content = CheckpointLoader.load_checkpoint(place, 'cpu')
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    data = meta.get('dataset_meta')
    data = data if isinstance(data, Mapping) else meta
    for name in ('classes', 'CLASSES'):
        if isinstance(data.get(name), (list, tuple)):
            return tuple(map(str, data[name]))
    return ()
