"""What the demo shows in the end: a table, curves and pictures."""

METRICS = ('coco/bbox_mAP', 'coco/segm_mAP')


def row(name, runner, metrics, file=None):
    """Return one line of the table."""
    trainable = sum(
        p.numel() for p in runner.model.parameters() if p.requires_grad
    )
    backbone = sum(
        p.numel()
        for p in runner.model.backbone.parameters()
        if p.requires_grad
    )
    size = '' if file is None else f'{file.stat().st_size / 1e6:.2f}'
    return (
        name,
        f'{trainable:,}' if file else '–',
        f'{backbone:,}' if file else '–',
        size,
        f'{metrics[METRICS[0]]:.3f}',
        f'{metrics[METRICS[1]]:.3f}',
    )


def comparison(rows):
    """Return the comparison as a table."""
    head = ('', 'trainable', 'in backbone', 'file MB', 'box mAP', 'mask mAP')
    widths = (26, 12, 13, 9, 9, 10)
    lines = []
    for line in (head, *rows):
        cells = [f'{line[0]:<{widths[0]}}']
        cells += [
            f'{cell:>{width}}'
            for cell, width in zip(line[1:], widths[1:], strict=True)
        ]
        lines.append(''.join(cells))
    lines.insert(1, '-' * sum(widths))
    return '\n'.join(lines)


def collect_predictions(runner, count):
    """Return pictures, ground truth and predictions of the first ones."""
    import mmcv
    import numpy as np
    import torch

    from demo.pictures.predictions import Instances

    runner.model.eval()
    dataset = runner.test_dataloader.dataset
    pictures, truth, found = [], [], []
    for index in range(count):
        data = dataset[index]
        batch = dict(
            inputs=[data['inputs']], data_samples=[data['data_samples']]
        )
        with torch.no_grad():
            sample = runner.model.test_step(batch)[0]
        picture = mmcv.imread(sample.img_path, channel_order='rgb')
        pictures.append(picture)
        own = sample.gt_instances.numpy()
        truth.append(
            Instances(
                np.asarray(own.bboxes),
                own.labels,
                masks=sample.gt_instances.masks.masks.astype(bool),
            )
        )
        predicted = sample.pred_instances.numpy()
        found.append(
            Instances(
                predicted.bboxes,
                predicted.labels,
                predicted.scores,
                predicted.masks.astype(bool),
            )
        )
    return pictures, truth, found


def draw(out, work_dirs, pictures, columns, metainfo):
    """Draw the curves, and what was found beside the bare pictures."""
    import numpy as np

    from demo.pictures import draw_curves, draw_predictions, read_scalars
    from demo.pictures.predictions import Instances

    draw_curves(
        {name: read_scalars(path) for name, path in work_dirs.items()},
        {'loss': 'training loss', 'coco/bbox_mAP': 'box mAP on the target'},
        out / 'curves.png',
    )
    nothing = Instances(np.empty((0, 4)), np.empty(0, int))
    draw_predictions(
        pictures,
        {'picture': [nothing] * len(pictures), **columns},
        metainfo['classes'],
        metainfo['palette'],
        out / 'predictions.png',
        min_score=0.5,
    )
