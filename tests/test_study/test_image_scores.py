"""Scores of images, by hand, and the pictures of predictions."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image

from mmflora.study import image_scores
from mmflora.study.image_scores import (
    average_precision,
    decode_labels,
    mean_iou,
)
from mmflora.study.prediction_pictures import (
    ImageSpread,
    choose_images,
    draw_found,
)

COLORS = np.array([[255, 0, 0], [0, 255, 0]], np.float32)


def instances(boxes, labels, scores=None, masks=None):
    found = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.tensor(labels),
    )
    if scores is not None:
        found.scores = torch.tensor(scores)
    if masks is not None:
        found.masks = torch.tensor(masks)
    return found


def score_image(found):
    return image_scores.score_image(found, 12)


def sample(**fields):
    found = BaseDataElement(metainfo=dict(img_path='a.jpg'))
    for name, value in fields.items():
        found.set_field(value, name)
    return found


def test_average_precision():
    truth = dict(
        boxes=[[0, 0, 10, 10], [20, 0, 30, 10]], classes=[0, 1], scores=[1, 1]
    )
    found = dict(
        boxes=[
            [0, 0, 10, 9],  # right
            [0, 0, 10, 10],  # the same object again
            [20, 0, 30, 10],  # of another class
            [20, 0, 30, 12],  # right
        ],
        classes=[0, 0, 0, 1],
        scores=[0.9, 0.8, 0.7, 0.6],
    )
    # Right at ranks 1 and 4: (1/1 + 2/4) / 2.
    assert average_precision(found, truth) == 0.75
    assert average_precision(dict(boxes=[], classes=[], scores=[]), truth) == 0


def test_masks_count_before_boxes():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4, :4] = masks[1, :, :] = True
    whole, corner = [[0, 0, 8, 8]], [[0, 0, 4, 4]]
    scored = score_image(
        sample(
            pred_instances=instances(whole, [0], [0.9], masks[:1]),
            gt_instances=instances(whole, [0], masks=masks[1:]),
        )
    )
    assert scored['score'] == 0
    scored = score_image(
        sample(
            pred_instances=instances(whole, [0], [0.9], masks[:1]),
            gt_instances=instances(corner, [0], masks=masks[:1]),
        )
    )
    assert scored['score'] == 1


def test_rotated_boxes():
    square = [[10.0, 10.0, 10.0, 10.0, 0.0]]
    turned = [[10.0, 10.0, 10.0, 10.0, float(np.pi / 4)]]
    bar = [[10.0, 10.0, 10.0, 2.0, 0.0]]
    scores = [
        score_image(
            sample(
                pred_instances=instances(found, [0], [0.9]),
                gt_instances=instances(square, [0]),
            )
        )['score']
        for found in (square, turned, bar)
    ]
    # A square turned by 45 degrees overlaps by 0.71, the bar by 0.2.
    assert scores == [1, 1, 0]


def test_mean_iou():
    truth = np.array([[0, 0, 1, 1], [255, 255, 1, 1]], np.uint8)
    found = np.array([[0, 1, 1, 1], [0, 0, 1, 2]], np.uint8)
    # Class 0: 1 of 2 pixels; class 1: 3 of 5; ignored ones do not count.
    assert mean_iou(found, truth, 3) == pytest.approx((1 / 2 + 3 / 5) / 2)
    assert mean_iou(found, np.full_like(truth, 255), 3) is None


def test_labels_come_back():
    labels = torch.arange(12).reshape(1, 3, 4)
    scored = score_image(
        sample(
            pred_sem_seg=PixelData(data=labels),
            gt_sem_seg=PixelData(data=labels),
        )
    )
    assert scored['score'] == 1
    decoded = decode_labels(scored['truth']['labels'])
    assert np.array_equal(decoded, labels[0])


def test_no_truth_and_no_such_task():
    found = instances([[0, 0, 1, 1]], [0], [0.9])
    assert score_image(sample(pred_instances=found))['score'] is None
    assert score_image(sample(pred_depth=found)) is None


def test_weak_predictions_are_left_out_and_truth_never():
    many, labels = [[0, 0, 5, 5]] * 150, [0] * 150
    found = instances(many, labels, [0.01] * 30 + [0.9] * 120)
    truth = instances(many, labels)
    scored = score_image(sample(pred_instances=found, gt_instances=truth))
    assert len(scored['found']['boxes']) == 100
    assert len(scored['truth']['boxes']) == 150


def test_images_are_chosen():
    spreads = [
        ImageSpread('easy', dict(a=0.9, b=0.9)),
        ImageSpread('hard', dict(a=0.1, b=0.1)),
        ImageSpread('differ', dict(a=0.2, b=0.9)),
        ImageSpread('middle', dict(a=0.5, b=0.6)),
    ]
    chosen = [item.image for _, item in choose_images(spreads, 2)]
    assert chosen == ['differ', 'hard']
    assert len(choose_images(spreads, 9)) == 4


@pytest.mark.parametrize(
    'box', [[2, 2, 8, 8], [2, 2, 8, 2, 8, 8, 2, 8]], ids=['flat', 'rotated']
)
def test_boxes_are_drawn_in_their_colors(box):
    photo = Image.new('RGB', (12, 12))
    found = dict(boxes=[box, box], classes=[1, 0], scores=[0.9, 0.1])
    pixels = np.asarray(draw_found(photo, found, COLORS))
    assert pixels[2, 5].tolist() == [0, 255, 0]
    assert pixels[5, 5].tolist() == [0, 0, 0]
    assert np.asarray(photo).max() == 0
