"""Makes the model of a config small enough for a step on a CPU."""

from typing import Any

from mmengine.config import Config

from mmflora.config.walk import find_dicts

SIZE = 128
LARGER = 320
MOST = {
    # Queries: the images have fewer places than models have queries.
    'num_queries': 100,
    'nms_pre': 100,
    'max_per_img': 50,
    'max_num': 50,
    'pre_nms_top_n': 100,
    'num_points': 256,
}
WHAT = (
    'Mixed precision is off, '
    f'images have {SIZE} × {SIZE} pixels (or {LARGER} × {LARGER}, where '
    'the stock model needs them), `num_queries` is 100 at most, '
    'proposals (`nms_pre`, `max_per_img`, samplers) are 100, 50 and 64 at '
    'most, and the weights are random.'
)
"""What differs from the config, in words."""


def shrink(cfg: Config, size: int = SIZE) -> None:
    """Lower numbers of a config that only cost time.

    Args:
        cfg: The config; it is changed.
        size: Height and width of the images.
    """
    for place, node in find_dicts(cfg.model, 'model'):
        for key, most in MOST.items():
            if isinstance(node.get(key), int) and node[key] > most:
                node[key] = most
        if place.endswith('sampler') and node.get('num', 0) > 64:
            node['num'] = 64
    _shrink_images(cfg.model, size)


def _shrink_images(model: Any, size: int) -> None:
    """Build backbones of one image size for images of this one."""
    for _, node in find_dicts(model, 'model'):
        if 'img_size' in node:
            node['img_size'] = (size, size)
    for _, node in find_dicts(model.get('test_cfg'), 'model.test_cfg'):
        if 'crop_size' in node:
            node['crop_size'] = (size, size)
    processor = model.get('data_preprocessor') or {}
    if processor.get('size') is not None:
        processor['size'] = (size, size)
    for augment in processor.get('batch_augments') or ():
        if 'size' in augment:
            augment['size'] = (size, size)
