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
        objects: How many each image has; in segmentation, classes, if the
            model knows as many.
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
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if preprocessor.get('size'):  # segmenters pad up to it
        return *preprocessor['size'], 'size of the data_preprocessor'
    if found := _last_size(_train_steps(loader)):
        return *found[:2], f'{found[2]} of the training pipeline'
    raise ValueError(
        f"The training pipeline of '{cfg.filename}' sets no image size "
        f'({", ".join(_RULES)} would). Give it by --size HxW.'
    )


def _train_steps(loader: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the transforms of the training data, of the last wrapper last."""
    steps: list[Mapping[str, Any]] = []
    for _, dataset in find_dicts(loader.get('dataset'), 'dataset'):
        pipeline = dataset.get('pipeline')
        if isinstance(pipeline, list | tuple):
            steps = [*(s for s in pipeline if isinstance(s, Mapping)), *steps]
    return steps


def _last_size(
    steps: Sequence[Mapping[str, Any]],
) -> tuple[int, int, str] | None:
    """Return height, width and the kind of the last step that sets them."""
    for step in reversed(steps):
        kind = str(step['type']).rsplit('.', 1)[-1]
        if kind in _RULES and (size := _RULES[kind](step)):
            return *size, kind
    return None


def _chosen(step: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the largest size of several pipelines to choose from."""
    ends = [_last_size(steps) for steps in step['transforms']]
    sizes = [(end[0], end[1]) for end in ends if end]
    return max(sizes, key=lambda pair: pair[0] * pair[1], default=None)


def _resized(step: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size after a resize: the largest of those to choose from."""
    scales = step.get('scales') or step.get('scale')
    if not scales:
        return None
    if not isinstance(scales, Sequence) or isinstance(scales[0], int):
        scales = [scales]
    pairs = [s if isinstance(s, Sequence) else (s, s) for s in scales]
    sides = max(pairs, key=lambda pair: pair[0] * pair[1])
    if step.get('keep_ratio', step.get('resize_type') is None):
        sides = sorted(sides, reverse=True)
    factor = max(step.get('ratio_range') or (1,))
    return int(sides[1] * factor), int(sides[0] * factor)


def _cropped(step: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size after a crop, if it is in pixels."""
    size = step.get('crop_size') or step.get('size')
    if size is None or step.get('crop_type', 'absolute') != 'absolute':
        return None
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


_RULES = {
    **dict.fromkeys(
        ('Resize', 'RandomResize', 'RandomChoiceResize'), _resized
    ),
    **dict.fromkeys(('RandomCrop', 'CenterCrop', 'Pad'), _cropped),
    'RandomChoice': _chosen,
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
    steps = _train_steps(cfg.train_dataloader)
    numbers = [
        node['num_classes']
        for _, node in find_dicts(cfg.model, 'model')
        if isinstance(node.get('num_classes'), int)
    ]
    classes = min(shape.objects, shape.height, *numbers)
    with torch.device('cpu'):
        images, samples = [], []
        for _ in range(shape.images):
            # Nothing depends on values of images; fake ones have none.
            images.append(torch.empty((3, *size), dtype=torch.uint8).zero_())
            if cfg.default_scope == 'mmseg':
                samples.append(_segmented(size, classes))
            else:
                samples.append(_detected(size, shape.objects, steps))
    for sample in samples:
        sample.set_metainfo(
            dict(
                **dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), size),
                **dict(scale_factor=(1.0, 1.0), img_id=0, img_path=''),
                **dict(flip=False, flip_direction=None),
            )
        )
    return dict(inputs=images, data_samples=samples)


def _segmented(size: tuple[int, int], classes: int) -> Any:
    """Return a sample for a segmenter: the classes, from top to bottom."""
    from mmseg.structures import SegDataSample

    height, width = size
    rows = torch.arange(height) * classes // height
    labels = rows[None, :, None].repeat(1, 1, width)
    return SegDataSample(gt_sem_seg=PixelData(data=labels))


def _detected(
    size: tuple[int, int], objects: int, steps: Sequence[Mapping[str, Any]]
) -> Any:
    """Return a sample for a detector: objects of one class, anywhere.

    Boxes are of the kind that the pipeline's ``steps`` give, with masks if
    these load some, and with segments, all of the first class, likewise.
    """
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import get_box_type
    from mmdet.structures.mask import BitmapMasks

    name = 'hbox'
    for step in steps:
        name = step.get('box_type', name)
        name = (step.get('box_type_mapping') or {}).get('gt_bboxes', name)
    _, kind = get_box_type(name)

    def instances(count: int) -> Any:
        return InstanceData(
            bboxes=kind(_boxes(size, count, kind.box_dim)),
            labels=torch.zeros(count, dtype=torch.int64),
        )

    found = instances(objects)
    if any(step.get('with_mask') for step in steps):
        empty = np.zeros((objects, *size), dtype=np.uint8)
        found.masks = BitmapMasks(empty, *size)
    sample = DetDataSample(gt_instances=found, ignored_instances=instances(0))
    if any(step.get('with_seg') for step in steps):
        labels = torch.zeros((1, *size), dtype=torch.int64)
        sample.gt_sem_seg = PixelData(sem_seg=labels)
    return sample


def _boxes(size: tuple[int, int], count: int, numbers: int) -> Tensor:
    """Draw boxes with sides of 1/16 to 1/2 of the image's, always the same.

    Returns:
        Shape ``(count, 4)``, corners, or ``(count, 5)``, centre, sides and
        angle.
    """
    draw = torch.Generator('cpu').manual_seed(0)
    whole = torch.tensor([size[1], size[0]])
    unit = torch.rand(2, count, 2, generator=draw)
    sides = (1 / 16 + unit[0] * 7 / 16) * whole
    corner = unit[1] * (whole - sides)
    if numbers == 5:
        centre = corner + sides / 2
        return torch.cat([centre, sides, torch.zeros(count, 1)], dim=1)
    return torch.cat([corner, corner + sides], dim=1)
