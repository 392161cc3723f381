"""A batch that nobody has read: of the config's size, with made-up labels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from mmflora.config.walk import find_dicts

# Objects in each image, unless said otherwise; COCO has 7 on average.
OBJECTS = 20


@dataclass(frozen=True)
class BatchShape:
    """What a batch is like.

    Attributes:
        images: How many.
        height: In pixels.
        width: In pixels.
        objects: How many each image has, in detection.
        source: Where the size comes from.
    """

    images: int
    height: int
    width: int
    objects: int = OBJECTS
    source: str = ''


def parse_image_size(text: str) -> tuple[int, int]:
    """Read height and width, such as ``800x1333`` or ``512``.

    Raises:
        ValueError: If it is neither.
    """
    match = re.fullmatch(r'(\d+)(?:[xX](\d+))?', text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise ValueError(
            f'--size: {text!r} is no image size. Give height and width in '
            'pixels, such as 800x1333, or one number for both.'
        )
    return size


def batch_shape(
    cfg: Config,
    images: int | None = None,
    size: tuple[int, int] | None = None,
    objects: int = OBJECTS,
) -> BatchShape:
    """Read from a config what its training batches are like.

    Args:
        cfg: The config.
        images: Images per GPU; the config's if ``None``.
        size: Height and width; the training pipeline's if ``None``.
        objects: Objects in each image.

    Raises:
        ValueError: If the config does not say it, and the argument neither.
    """
    loader = cfg.get('train_dataloader') or {}
    if images is None:
        images = loader.get('batch_size')
    if not isinstance(images, int) or images < 1:
        raise ValueError(
            f'The batch has {images!r} images: give at least one by --batch, '
            'or train_dataloader.batch_size in the config.'
        )
    if objects < 1:
        raise ValueError(f'--objects: at least one, got {objects}.')
    if size is not None:
        return BatchShape(images, *size, objects, 'as given')
    height, width, source = _pipeline_size(cfg, loader)
    return BatchShape(images, height, width, objects, source)


def _pipeline_size(
    cfg: Config, loader: Mapping[str, Any]
) -> tuple[int, int, str]:
    """Return height, width and what sets them in the training pipeline."""
    found: tuple[int, int, str] | None = None
    for step in _train_steps(loader):
        kind = str(step['type']).rsplit('.', 1)[-1]
        size = _RULES[kind](step) if kind in _RULES else None
        if size is not None:
            height, width = size
            found = height, width, f'{kind} of the training pipeline'
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if preprocessor.get('size'):  # segmenters pad up to it
        height, width = preprocessor['size']
        found = height, width, 'size of the data_preprocessor'
    if found is None:
        raise ValueError(
            f"The training pipeline of '{cfg.filename}' sets no image size "
            f'({", ".join(_RULES)} would). Give it by --size HxW.'
        )
    return found


def _train_steps(loader: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the transforms of the training data, of the last wrapper last."""
    steps: list[Mapping[str, Any]] = []
    for _, dataset in find_dicts(loader.get('dataset'), 'dataset'):
        pipeline = dataset.get('pipeline')
        if isinstance(pipeline, list | tuple):
            steps = [*(s for s in pipeline if isinstance(s, Mapping)), *steps]
    return steps


def _resized(step: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size after a resize: the largest of those to choose from."""
    scales = step.get('scales') or step.get('scale')
    if not scales:
        return None
    if not isinstance(scales, Sequence) or isinstance(scales[0], int):
        scales = [scales]
    pairs = [s if isinstance(s, Sequence) else (s, s) for s in scales]
    long_side, short_side = max(pairs, key=lambda pair: pair[0] * pair[1])
    if step.get('keep_ratio', step.get('resize_type') is None):
        long_side, short_side = (
            max(long_side, short_side),
            min(long_side, short_side),
        )
    factor = max(step.get('ratio_range') or (1,))
    return int(short_side * factor), int(long_side * factor)


def _cropped(step: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size after a crop, if it is in pixels."""
    size = step.get('crop_size') or step.get('size')
    if size is None or step.get('crop_type', 'absolute') != 'absolute':
        return None
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


_RULES = {
    'Resize': _resized,
    'RandomResize': _resized,
    'RandomChoiceResize': _resized,
    'RandomCrop': _cropped,
    'CenterCrop': _cropped,
    'Pad': _cropped,
}


def make_batch(cfg: Config, shape: BatchShape) -> dict[str, Any]:
    """Return a batch as the data loader gives it: on the CPU, in bytes.

    Args:
        cfg: The config; its toolkit must be registered.
        shape: What the batch is like.

    Returns:
        ``inputs``, one image ``(3, H, W)`` of uint8 each, and
        ``data_samples``.
    """
    size = (shape.height, shape.width)
    images = [
        # Nothing depends on the values of images; fake ones have none.
        torch.empty((3, *size), dtype=torch.uint8, device='cpu').zero_()
        for _ in range(shape.images)
    ]
    if cfg.default_scope == 'mmseg':
        samples = [_segmented(size) for _ in images]
    else:
        steps = _train_steps(cfg.train_dataloader)
        boxes, masks = _box_type(steps), _has_masks(steps)
        samples = [
            _detected(size, shape.objects, boxes, masks) for _ in images
        ]
    return dict(inputs=images, data_samples=samples)


def _segmented(size: tuple[int, int]) -> Any:
    """Return a sample for a segmenter: every pixel of the first class."""
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_about(size))
    labels = torch.zeros((1, *size), dtype=torch.int64, device='cpu')
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _detected(
    size: tuple[int, int], objects: int, box_type: str, masks: bool
) -> Any:
    """Return a sample for a detector: objects of one class, anywhere."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import get_box_type
    from mmdet.structures.mask import BitmapMasks

    sample = DetDataSample(metainfo=_about(size))
    _, kind = get_box_type(box_type)
    instances = InstanceData()
    instances.bboxes = kind(_boxes(size, objects, kind.box_dim))
    instances.labels = torch.zeros(objects, dtype=torch.int64, device='cpu')
    if masks:
        empty = np.zeros((objects, *size), dtype=np.uint8)
        instances.masks = BitmapMasks(empty, *size)
    sample.gt_instances = instances
    sample.ignored_instances = InstanceData(
        bboxes=kind(_boxes(size, 0, kind.box_dim)),
        labels=torch.zeros(0, dtype=torch.int64, device='cpu'),
    )
    return sample


def _boxes(size: tuple[int, int], count: int, numbers: int) -> Tensor:
    """Draw boxes with sides of 1/16 to 1/2 of the image's, always the same.

    Returns:
        Shape ``(count, 4)``, corners, or ``(count, 5)``, centre, sides and
        angle.
    """
    draw = torch.Generator('cpu').manual_seed(0)
    whole = torch.tensor([size[1], size[0]], device='cpu')
    unit = torch.rand(2, count, 2, generator=draw, device='cpu')
    sides = (1 / 16 + unit[0] * 7 / 16) * whole
    corner = unit[1] * (whole - sides)
    if numbers == 5:
        angle = torch.zeros(count, 1, device='cpu')
        return torch.cat([corner + sides / 2, sides, angle], dim=1)
    return torch.cat([corner, corner + sides], dim=1)


def _box_type(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the registered name of the boxes that the pipeline gives."""
    name = 'hbox'
    for step in steps:
        name = step.get('box_type', name)
        name = (step.get('box_type_mapping') or {}).get('gt_bboxes', name)
    return name


def _has_masks(steps: Sequence[Mapping[str, Any]]) -> bool:
    return any(step.get('with_mask') for step in steps)


def _about(size: tuple[int, int]) -> dict[str, Any]:
    """Return what a sample says of its image."""
    return dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        scale_factor=(1.0, 1.0),
        img_id=0,
        img_path='',
        flip=False,
        flip_direction=None,
    )
