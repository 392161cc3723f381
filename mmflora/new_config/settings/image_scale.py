"""The size to which images are resized."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.config import Config

from mmflora.config.walk import find_dicts
from mmflora.new_config.annotated_images import ImageSet

# Images are not enlarged beyond this.
MOST_ENLARGED = 2.0
# In the resized image, nine objects of ten are to be at least so large.
LEAST_OBJECT = 16.0
_STEP = 32
_RESIZING: tuple[str, ...] = ('scale', 'scales', 'img_scale')
_CROPPING = ('crop_size', 'size', 'border')
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def set_scale(cfg: Config, data: ImageSet) -> str:
    """Fit the size of images to the data, if the config's own does not.

    The config's size stays if it enlarges the median image at most twofold,
    and if nine of ten objects keep 16 pixels (square root of the area of
    their box). Otherwise all sizes are multiplied by one number: down to a
    twofold enlargement, or up to those 16 pixels, at most twofold and not
    beyond the images' own size.

    Args:
        cfg: It is changed.
        data: The images.

    Returns:
        What was done, for the report.
    """
    width, height = (
        int(v) for v in np.median([i.size for i in data.images], axis=0)
    )
    scale = _tested_scale(cfg)
    if scale is None:
        return f'as in the config (the median image is {width}x{height})'
    factor = min(
        max(scale) / max(width, height), min(scale) / min(width, height)
    )
    change, why = _change(factor, data)
    if round(change, 2) == 1.0:
        return (
            f'{scale[0]}x{scale[1]}, as in the config: the median image of '
            f'{width}x{height} becomes {width * factor:.0f}x'
            f'{height * factor:.0f}'
        )
    keys = _RESIZING
    if cfg.get('default_scope') != 'mmseg':
        # There, crops have the size that the model is built for.
        keys += _CROPPING
        for _, node in find_dicts(cfg.model.get('data_preprocessor'), ''):
            _multiply(node, keys, change)
    for node in _pipelines(cfg):
        for _, transform in find_dicts(node, ''):
            _multiply(transform, keys, change)
    new = _tested_scale(cfg) or scale
    return f'{new[0]}x{new[1]} instead of {scale[0]}x{scale[1]}: {why}'


def _change(factor: float, data: ImageSet) -> tuple[float, str]:
    """Return the number to multiply sizes with, and the reason."""
    if factor > MOST_ENLARGED:
        return (
            MOST_ENLARGED / factor,
            f'images would be enlarged {factor:.1f} times',
        )
    sides = []
    for _, instance in data.instances():
        x1, y1, x2, y2 = instance.bounds
        sides.append(math.sqrt(max(x2 - x1, 0) * max(y2 - y1, 0)))
    small = float(np.percentile(sides, 10)) if sides else math.inf
    if factor < 1.0 and small * factor < LEAST_OBJECT:
        wanted = min(LEAST_OBJECT / (small * factor), 2.0, 1.0 / factor)
        return (
            wanted,
            f'one object in ten would be smaller than {small * factor:.0f} '
            'pixels',
        )
    return 1.0, ''


def _tested_scale(cfg: Config) -> tuple[int, int] | None:
    """Return the size of the resize in validation."""
    loader = cfg.get('val_dataloader') or {}
    for _, node in find_dicts(loader.get('dataset'), ''):
        scale = node.get('scale')
        if 'Resize' in str(node.get('type')) and scale:
            if isinstance(scale, int):
                return scale, scale
            if all(isinstance(v, int) and v > 0 for v in scale):
                return tuple(scale)
    return None


def _pipelines(cfg: Config) -> Iterator[Any]:
    for name in _LOADERS:
        yield (cfg.get(name) or {}).get('dataset')
    for hook in cfg.get('custom_hooks') or ():
        yield hook.get('switch_pipeline')


def _multiply(node: Any, keys: tuple[str, ...], change: float) -> None:
    for key in keys:
        if key in node and not isinstance(node[key], (dict, float)):
            node[key] = _multiplied(node[key], change, key == 'border')


def _multiplied(value: Any, change: float, is_half: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_multiplied(v, change, is_half) for v in value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    step = _STEP // 2 if is_half else _STEP
    steps = max(1, round(abs(value) * change / step))
    return step * steps if value > 0 else -step * steps
