"""How well each image of a test was predicted, and the predictions.

The score of an image is a rough guide to which images are hard, not the
metric of the task.  For boxes and instances it is the image's average
precision at an overlap (IoU) of one half, all classes together; for labels of
pixels it is the mean IoU over the classes that the truth has.
"""

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.hooks import Hook
from pycocotools import mask as coco_masks

from mmflora.files.atomic import staged_file

MIN_SCORE = 0.05
MOST_OBJECTS = 100
IGNORED = 255


class ImageScoresHook(Hook):
    """Writes a score for each image that is tested, and what was found.

    Args:
        path: The file to write, gzipped JSON.
        pictures: Whether predictions and truth go there, too.
    """

    priority = 'VERY_LOW'

    def __init__(self, path: Path, pictures: bool) -> None:
        self.path = path
        self.pictures = pictures
        self.images: list[dict[str, Any]] = []

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Score the images of a batch."""
        meta = getattr(runner.test_dataloader.dataset, 'metainfo', {})
        classes = len(meta.get('classes') or ()) or IGNORED
        for sample in outputs or ():
            scored = score_image(sample, classes)
            if scored is None:
                continue
            if not self.pictures:
                scored = {key: scored[key] for key in ('image', 'score')}
            self.images.append(scored)

    def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Write the file."""
        meta = getattr(runner.test_dataloader.dataset, 'metainfo', {})
        palette = meta.get('palette')
        content = dict(
            classes=list(meta.get('classes') or ()),
            palette=palette if isinstance(palette, (list, tuple)) else None,
            images=self.images,
        )
        with staged_file(self.path) as partial:
            partial.write_bytes(gzip.compress(json.dumps(content).encode()))


def read_images(path: Path) -> dict[str, Any]:
    """Read what :class:`ImageScoresHook` wrote; nothing if it is missing."""
    if not path.is_file():
        return dict(classes=[], palette=None, images=[])
    content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return content


def score_image(sample: Any, classes: int) -> dict[str, Any] | None:
    """Return the score of an image, the truth and what was found.

    Args:
        sample: What the model returned for it, with the truth.
        classes: How many there are; pixels of higher labels are ignored.

    Returns:
        ``None`` for other tasks than boxes, instances and labels of pixels.
        The score is ``None`` where the pipeline loads no truth.
    """
    image = dict(image=str(getattr(sample, 'img_path', '')))
    if 'pred_sem_seg' in sample:
        return dict(image, **_score_labels(sample, classes))
    if 'pred_instances' in sample:
        return dict(image, **_score_objects(sample))
    return None


def _score_labels(sample: Any, classes: int) -> dict[str, Any]:
    found = _labels(sample.pred_sem_seg)
    result: dict[str, Any] = dict(
        score=None, found=dict(labels=_encode(found)), truth=None
    )
    if 'gt_sem_seg' in sample:
        truth = _labels(sample.gt_sem_seg)
        result['truth'] = dict(labels=_encode(truth))
        if truth.shape == found.shape:
            result['score'] = mean_iou(found, truth, classes)
    return result


def _score_objects(sample: Any) -> dict[str, Any]:
    result: dict[str, Any] = dict(
        score=None, found=_objects(sample.pred_instances), truth=None
    )
    if 'gt_instances' in sample and len(sample.gt_instances):
        truth = _objects(sample.gt_instances)
        score = average_precision(result['found'], truth)
        result.update(score=score, truth=truth)
    return result


def mean_iou(
    found: np.ndarray, truth: np.ndarray, classes: int
) -> float | None:
    """Return the mean IoU over the classes that the truth has."""
    valid = truth < classes
    ious = [
        np.sum((found == label) & (truth == label))
        / np.sum(((found == label) | (truth == label)) & valid)
        for label in np.unique(truth[valid])
    ]
    return float(np.mean(ious)) if ious else None


def average_precision(found: dict[str, Any], truth: dict[str, Any]) -> float:
    """Return the average precision of an image at an IoU of one half.

    Sum of the precision at each true positive, by falling score, over the
    number of objects.  A prediction takes the object of its class that it
    overlaps most, if none took it before.
    """
    overlaps = _overlaps(found, truth)
    free = np.ones(len(truth['classes']), bool)
    hits, total = 0, 0.0
    order = np.argsort(-np.asarray(found['scores']), kind='stable')
    for rank, index in enumerate(order, 1):
        same = np.asarray(truth['classes']) == found['classes'][index]
        candidates = np.where(free & same, overlaps[index], 0.0)
        best = int(candidates.argmax())
        if candidates[best] >= 0.5:
            free[best] = False
            hits += 1
            total += hits / rank
    return total / len(free)


def _overlaps(found: dict[str, Any], truth: dict[str, Any]) -> np.ndarray:
    """Return IoUs: of masks where both have them, else of boxes."""
    sizes = len(found['boxes']), len(truth['boxes'])
    if not sizes[0]:
        return np.zeros(sizes)
    ours, theirs = found.get('masks'), truth.get('masks')
    if ours and theirs and ours[0]['size'] == theirs[0]['size']:
        return np.asarray(coco_masks.iou(ours, theirs, [0] * sizes[1]))
    boxes = [np.asarray(side['boxes'], np.float32) for side in (found, truth)]
    if boxes[0].shape[1] == boxes[1].shape[1] == 4:
        for side in boxes:
            side[:, 2:] -= side[:, :2]
        return np.asarray(
            coco_masks.iou(
                *(b.astype(np.float64) for b in boxes), [0] * sizes[1]
            )
        )
    from mmcv.ops import box_iou_quadri

    quads = [torch.from_numpy(_corners(side)) for side in boxes]
    return box_iou_quadri(*quads).numpy()


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Return boxes as four corners each, shape ``(n, 8)``."""
    if boxes.shape[1] == 8:
        return boxes
    x1, y1, x2, y2 = boxes.T
    return np.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1)


def _objects(instances: Any) -> dict[str, Any]:
    """Return the objects of an image as plain values."""
    boxes = instances.bboxes
    boxes = getattr(boxes, 'tensor', boxes).detach().cpu().float().numpy()
    scores: Any = np.ones(len(boxes))
    keep: Any = np.arange(len(boxes))
    if 'scores' in instances:
        scores = instances.scores.detach().cpu().float().numpy()
        keep = np.argsort(-scores, kind='stable')[:MOST_OBJECTS]
        keep = keep[scores[keep] >= MIN_SCORE]
    if boxes.shape[1] == 5:  # center, size, angle in radians
        boxes = (
            np.stack(
                [
                    cv2.boxPoints(
                        ((x, y), (w, h), float(np.degrees(a)))
                    ).ravel()
                    for x, y, w, h, a in boxes
                ]
            )
            if len(boxes)
            else np.zeros((0, 8))
        )
    result = dict(
        boxes=np.round(boxes[keep].astype(float), 1).tolist(),
        classes=instances.labels.cpu().numpy()[keep].tolist(),
        scores=np.round(scores[keep].astype(float), 4).tolist(),
    )
    if 'masks' in instances and len(keep):
        result['masks'] = _runs(instances.masks, keep)
    return result


def _runs(masks: Any, keep: Sequence[int]) -> list[dict[str, Any]]:
    """Return masks as COCO's runs of pixels."""
    if hasattr(masks, 'to_ndarray'):
        masks = masks.to_ndarray()
    elif isinstance(masks, torch.Tensor):
        masks = masks.cpu().numpy()
    runs = []
    for index in keep:
        mask = np.asfortranarray(masks[index].astype(np.uint8))
        encoded = coco_masks.encode(mask)
        runs.append(
            dict(size=encoded['size'], counts=encoded['counts'].decode())
        )
    return runs


def _labels(pixels: Any) -> np.ndarray:
    labels: np.ndarray = pixels.data.squeeze(0).cpu().numpy().astype(np.uint8)
    return labels


def _encode(labels: np.ndarray) -> str:
    """Return labels of pixels as a PNG, in base64."""
    _, png = cv2.imencode('.png', labels)
    return base64.b64encode(png.tobytes()).decode()


def decode_labels(text: str) -> np.ndarray:
    """Return the labels of pixels that a text holds."""
    data = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
