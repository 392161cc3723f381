"""Made batches of two random images, in the form that a model takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from mmrotate.structures.bbox import RotatedBoxes
from mmseg.structures import SegDataSample

from mmflora.config.walk import find_dicts

IMAGES = 2
OBJECTS = 3
TEXT = 'cat . dog . bird . '
WORDS = 3
IGNORED = 255


@dataclass(frozen=True)
class Kind:
    """What a model's batch holds.

    Attributes:
        size: Height and width of the images.
        channels: Their channels.
        classes: How many classes objects have.
        segments: How many classes pixels have.
        stride: How much smaller than the images the map of classes is.
        boxes: What boxes are: ``'plain'`` tensors, or mmrotate's ``'hbox'``,
            ``'rbox'`` or ``'qbox'``.
        masks: Whether objects have masks.
        depth: Whether pixels have a depth.
        text: Whether images come with a text that names the classes.
    """

    size: int
    channels: int
    classes: int
    segments: int
    stride: int
    boxes: str
    masks: bool
    depth: bool
    text: bool


def made_batch(cfg: Config, size: int) -> dict[str, Any]:
    """Return a batch as a data loader gives it to the model of a config.

    Args:
        cfg: The config.
        size: Height and width of the images.
    """
    kind = _kind(cfg, size)
    rng = np.random.RandomState(0)
    if cfg.default_scope == 'mmseg':
        samples = [_seg_sample(kind, rng) for _ in range(IMAGES)]
        return _collate(samples, kind, rng)
    processor = cfg.model.get('data_preprocessor') or {}
    processes = str(processor.get('type')).rpartition('.')[2]
    if processes == 'TrackDataPreprocessor' and not processor.get(
        'use_det_processor'
    ):
        return _video_batch(kind, rng)
    if processes == 'MultiBranchDataPreprocessor':
        parts = {
            name: _detection_batch(kind, rng)
            for name in ('sup', 'unsup_teacher', 'unsup_student')
        }
        return {
            key: {name: part[key] for name, part in parts.items()}
            for key in ('inputs', 'data_samples')
        }
    return _detection_batch(kind, rng)


def _kind(cfg: Config, size: int) -> Kind:
    nodes = [node for _, node in find_dicts(cfg.model, 'model')]
    counts = [_count(node) for node in nodes]
    classes = min((count for count in counts if count), default=2)
    text = any('language_model' in node for node in nodes)
    heads = [node for node in nodes if 'seg_scale_factor' in node]
    semantic = [
        node['num_classes']
        for node in nodes
        if 'num_classes' in node
        and ('Semantic' in str(node.get('type')) or 'decode' in str(node))
    ]
    stuff = [
        node['num_things_classes'] + node['num_stuff_classes']
        for node in nodes
        if node.get('num_stuff_classes') and 'num_things_classes' in node
    ]
    mean = next((node['mean'] for node in nodes if 'mean' in node), [0] * 3)
    return Kind(
        size=size,
        channels=len(mean or [0] * 3),
        classes=min(classes, WORDS) if text else classes,
        segments=min([*stuff, *semantic, classes], default=2),
        stride=round(1 / heads[0]['seg_scale_factor']) if heads else 1,
        boxes=_boxes(cfg),
        masks=cfg.default_scope == 'mmdet'
        and any(
            node.get('with_mask')
            for _, node in find_dicts(cfg.get('train_dataloader'), '')
        ),
        depth='Depth' in str(cfg.model.get('type')),
        text=text,
    )


def _boxes(cfg: Config) -> str:
    if cfg.default_scope != 'mmrotate':
        return 'plain'
    boxes = 'rbox'
    for step in cfg.get('train_pipeline') or ():  # the last one counts
        mapping = step.get('box_type_mapping') or {}
        boxes = mapping.get('gt_bboxes') or step.get('box_type') or boxes
    return boxes


def _count(node: Mapping[str, Any]) -> int:
    for name in ('num_things_classes', 'num_classes'):
        if isinstance(node.get(name), int):
            return node[name]
    return 0


def _collate(
    samples: list[Any], kind: Kind, rng: np.random.RandomState
) -> dict[str, Any]:
    shape = (kind.channels, kind.size, kind.size)
    images = [
        torch.from_numpy(rng.randint(0, 256, shape, dtype=np.uint8))
        for _ in samples
    ]
    return dict(inputs=images, data_samples=samples)


def _seg_sample(kind: Kind, rng: np.random.RandomState) -> SegDataSample:
    sample = SegDataSample(metainfo=_meta(kind, 0))
    shape = (1, kind.size, kind.size)
    classes = torch.from_numpy(rng.randint(0, kind.segments, shape))
    edges = torch.from_numpy(rng.randint(0, 2, shape))
    sample.gt_sem_seg = PixelData(data=_in_patches(classes))
    sample.gt_edge_map = PixelData(data=edges)
    if kind.depth:
        depth = torch.from_numpy(rng.uniform(1, 9, shape)).float()
        sample.gt_depth_map = PixelData(data=depth)
    return sample


def _in_patches(classes: torch.Tensor) -> torch.Tensor:
    """Make neighboring pixels of one class, some of none."""
    step = max(classes.shape[-1] // 4, 1)
    coarse = classes[:, ::step, ::step].repeat_interleave(step, 1)
    classes = coarse.repeat_interleave(step, 2)[
        :, : classes.shape[1], : classes.shape[2]
    ].contiguous()
    classes[:, :2] = IGNORED
    return classes


def _meta(kind: Kind, index: int) -> dict[str, Any]:
    shape = (kind.size, kind.size)
    meta = dict(
        img_id=index,
        img_path='made.png',
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        batch_input_shape=shape,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=[0, 0, 0, 0],  # CenterNet
        homography_matrix=np.eye(3, dtype=np.float32),
        reduce_zero_label=False,
    )
    if kind.text:
        meta |= dict(text=TEXT, custom_entities=True)
    return meta


def _detection_batch(kind: Kind, rng: np.random.RandomState) -> dict[str, Any]:
    samples = [_detection_sample(kind, rng, i) for i in range(IMAGES)]
    return _collate(samples, kind, rng)


def _detection_sample(
    kind: Kind, rng: np.random.RandomState, index: int
) -> DetDataSample:
    """Return objects that lie within the image, with everything known."""
    sample = DetDataSample(metainfo=_meta(kind, index))
    centers = rng.uniform(0.35, 0.65, (OBJECTS, 2)) * kind.size
    sizes = rng.uniform(0.2, 0.6, (OBJECTS, 2)) * kind.size
    corners = np.concatenate([centers - sizes / 2, centers + sizes / 2], 1)
    boxes = torch.from_numpy(corners).float()
    angles = rng.uniform(-0.7, 0.7, (OBJECTS, 1))
    rotated = torch.from_numpy(np.concatenate([centers, sizes, angles], 1))
    objects = InstanceData()
    objects.bboxes = boxes
    if kind.boxes != 'plain':
        objects.bboxes = RotatedBoxes(rotated.float()).convert_to(kind.boxes)
    labels = rng.randint(0, kind.classes, OBJECTS)
    objects.labels = torch.from_numpy(labels).long()
    if kind.masks:
        objects.masks = _masks(corners.astype(int), kind.size)
    objects.instances_ids = torch.arange(OBJECTS)
    sample.gt_instances = objects
    sample.ignored_instances = objects[:0]
    sample.proposals = InstanceData(
        bboxes=boxes + 2, scores=torch.ones(OBJECTS)
    )
    shape = (1, kind.size // kind.stride, kind.size // kind.stride)
    pixels = torch.from_numpy(rng.randint(0, kind.segments, shape))
    sample.gt_sem_seg = PixelData(sem_seg=_in_patches(pixels))
    return sample


def _masks(corners: np.ndarray, size: int) -> BitmapMasks:
    masks = np.zeros((len(corners), size, size), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = 1
    return BitmapMasks(masks, size, size)


def _video_batch(kind: Kind, rng: np.random.RandomState) -> dict[str, Any]:
    """Return one video of a key frame and a reference frame."""
    frames = [_detection_sample(kind, rng, 0) for _ in range(2)]
    for index, frame in enumerate(frames):
        frame.set_metainfo(dict(frame_id=index, is_video_data=True))
    video = TrackDataSample(
        metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1])
    )
    video.video_data_samples = frames
    images = _collate(frames, kind, rng)['inputs']
    return dict(inputs=[torch.stack(images)], data_samples=[video])
