"""The DOTA metric in threads is the DOTA metric."""

import pytest
import torch
from mmengine.structures import InstanceData
from mmrotate.evaluation import DOTAMetric

from mmflora.evaluation import ThreadedDOTAMetric

CLASSES = ('circle', 'bar')


def draw_samples(noise):
    """Two images with boxes ``(x, y, w, h, angle)``, found up to a noise."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for number in range(2):
        boxes = torch.rand(6, 5, generator=generator) * 60 + 20
        boxes[:, 4] = torch.rand(6, generator=generator) - 0.5
        shift = torch.randn(6, 5, generator=generator) * noise
        labels = torch.arange(6) % 2
        ignored = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        found = InstanceData(
            bboxes=boxes + shift,
            labels=labels,
            scores=torch.rand(6, generator=generator),
        )
        samples.append(
            dict(
                img_id=str(number),
                gt_instances=InstanceData(bboxes=boxes, labels=labels),
                ignored_instances=ignored,
                pred_instances=found,
            )
        )
    return samples


def evaluate(metric, noise):
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, draw_samples(noise))
    return metric.evaluate(size=2)


def test_perfect_boxes_have_a_perfect_score():
    scores = evaluate(ThreadedDOTAMetric(), noise=0.0)
    assert scores == {'dota/mAP': pytest.approx(1.0), 'dota/AP50': 1.0}


@pytest.mark.slow
def test_scores_are_those_of_the_original():
    thresholds = [0.5, 0.75]
    threaded = evaluate(ThreadedDOTAMetric(iou_thrs=thresholds), noise=2.0)
    original = evaluate(DOTAMetric(iou_thrs=thresholds), noise=2.0)
    assert threaded == original
    assert 0 < threaded['dota/mAP'] < 1
