"""tools/rank_curve.py, and the area under its curve."""

import pytest

from mmflora.adapter_files.rank_curve import (
    area_under_curve,
    curve_table,
    draw_curve,
)

from .conftest import CONFIGS

NESTED = (
    CONFIGS / 'matryoshka-lora/mask-rcnn_convnextv2-atto_'
    'matryoshka-lora-r16_shapes.py'
)


def test_area_under_the_curve():
    assert area_under_curve([4], [0.3]) == 0.3
    # Over the rank: 1 to 2 has a mean of 0.2, 2 to 4 one of 0.5.
    areas = [area_under_curve([1, 2, 4], [0.1, 0.3, 0.7], b) for b in (0, 1)]
    assert areas[0] == pytest.approx((1 * 0.2 + 2 * 0.5) / 3)
    assert areas[1] == pytest.approx((0.2 + 0.5) / 2)


def test_table_and_picture(tmp_path):
    results = [dict(mAP=0.1, loss=2.0), dict(mAP=0.3, loss=1.0)]
    table = curve_table([1, 4], [1000, 4000], results).splitlines()
    assert table[0].split() == ['rank', 'parameters', 'mAP', 'loss']
    assert table[2].split() == ['4', '4,000', '0.3000', '1.0000']
    assert table[3].split()[-2:] == ['0.2000', '1.5000']
    draw_curve([1, 4], results, ['mAP'], tmp_path / 'curve.png')
    assert (tmp_path / 'curve.png').stat().st_size > 1000


@pytest.mark.slow
def test_trained_prefixes_are_tested(workspace):
    config, ranks = NESTED, ('1', '4', '16')
    short = (
        *('train_dataloader.num_workers=0', 'val_dataloader.num_workers=0'),
        *('test_dataloader.num_workers=0', 'train_cfg.max_epochs=2'),
    )
    _, curve = workspace.run_tools(
        ('train.py', config, '--work-dir', 'nested', '--cfg-options', *short),
        (
            *('rank_curve.py', config, 'nested/epoch_2.pth', '--ranks'),
            *(*ranks, '--work-dir', 'curve', '--plot', 'curve.png'),
            *('--metrics', 'coco/bbox_mAP', '--cfg-options', *short),
        ),
    )
    lines = curve[curve.index('rank  ') :].splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(ranks)
    assert lines[4].split()[0] == 'area'
    assert (workspace.folder / 'curve.png').exists()
    assert (workspace.folder / 'curve/rank_4/adapter').is_dir()


@pytest.mark.slow
def test_a_compressed_adapter_is_tested_and_merged(workspace):
    """Ranks that differ by layer: the config that the tool writes fits."""
    config = CONFIGS / 'lora/mask-rcnn_convnextv2-atto_lora-r8_shapes.py'
    short = (
        *('train_dataloader.num_workers=0', 'val_dataloader.num_workers=0'),
        *('test_dataloader.num_workers=0', 'train_cfg.max_epochs=1'),
    )
    _, compressed, tested, merged, _, _ = workspace.run_tools(
        ('train.py', config, '--work-dir', 'big', '--cfg-options', *short),
        (
            *('adapters.py', 'compress', 'big/epoch_1.pth', 'small.pth'),
            *('--energy', '0.8', '--config', config),
        ),
        ('test.py', 'small.py', 'small.pth', '--cfg-options', *short[:3]),
        ('merge.py', 'small.py', 'small.pth', '--out', 'merged.pth'),
        (
            *('adapters.py', 'compress', 'big/epoch_1.pth', 'few'),
            *('--budget', '300k', '--config', config),
        ),
        ('test.py', 'few.py', 'few', '--cfg-options', *short[:3]),
    )
    total = compressed.split('\nall ')[1].splitlines()[0]
    assert float(total.split()[-1].rstrip('%')) <= 100 * 0.2**0.5 + 0.01
    assert 'coco/segm_mAP' in tested
    assert (workspace.folder / 'merged.pth').exists()
