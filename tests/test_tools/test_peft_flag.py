"""--peft: stock configs of the zoos are trained, tested, merged, counted.

Default: MMSegmentation, trained and tested.  Slow: all three, by every tool.
"""

from pathlib import Path

import pytest
import torch

from benchmarks.waits.stock_configs import CASES, write_case

from .conftest import refused

QUICK = {
    'mmseg': 'train_cfg.max_iters=2 train_cfg.val_interval=2 '
    'default_hooks.checkpoint.interval=2'
}
INFERENCE = Path(__file__).with_name('inference.py')
MERGED = ('--out', 'merged.pth', '--out-config', 'merged.py')
SMALL = ('--as-is', '--batch', '2', '--size', '128x128')
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ('name', 'everything'),
    [
        pytest.param('mmseg', False, id='mmseg'),
        *(
            pytest.param(name, True, id=f'{name}-all', marks=SLOW)
            for name in CASES
        ),
    ],
)
def test_stock_config_by_one_flag(workspace, name, everything):
    config = write_case(name, workspace.folder)
    run = f'{config.stem}_flora-r16'
    cfg = f'work_dirs/{run}/{run}.py'
    step = 'iter_2' if name in QUICK else 'epoch_1'
    checkpoint = f'work_dirs/{run}/{step}.pth'
    options = QUICK.get(name, 'train_cfg.max_epochs=1').split()
    folder = workspace.folder / 'data/shapes/target/coco/val2017'
    tools = [
        ('train.py', config.name, '--peft', 'flora-r16')
        + ('--cfg-options', *options),
        ('test.py', cfg, checkpoint),
        (INFERENCE, cfg, checkpoint, sorted(folder.iterdir())[0]),
    ]
    if everything:
        tools += [
            ('merge.py', cfg, checkpoint, *MERGED),
            ('test.py', 'merged.py', 'merged.pth'),
            ('adapters.py', 'export', checkpoint, f'{name}_adapter'),
            ('count_params.py', cfg),
            ('estimate_memory.py', cfg, *SMALL),
        ]
    # A new process: what the tools need they must import themselves.
    printed = workspace.run_tools(*tools, new=True)
    train, test, inferred, *rest = printed
    assert 'mmflora.PEFTBackbone of it' in train
    assert metrics(train) == metrics(test)
    agreed = inferred.count('weights True, predictions True')
    assert agreed == 2, inferred
    state = torch.load(workspace.folder / checkpoint)['state_dict']
    assert not any(key.endswith('conv1.weight') for key in state)
    assert any('.adapter.' in key for key in state)
    if everything:
        merged, tested, exported, counted, memory = rest
        assert 'largest difference of' in merged
        assert metrics(tested) == metrics(test)
        assert 'FLoRA' in exported
        assert run in counted
        assert 'GB' in memory


def metrics(printed):
    """Return the last line of metrics, without times."""
    words = ('mIoU:', 'bbox_mAP:', 'dota/mAP:')
    lines = [x for x in printed.splitlines() if any(w in x for w in words)]
    return lines[-1].rpartition(']')[2].partition('data_time')[0].strip()


def test_dump_writes_and_does_not_train(
    tmp_path, monkeypatch, train_tool, run_main
):
    monkeypatch.chdir(tmp_path)
    config = write_case('mmseg', tmp_path)
    with pytest.raises(SystemExit) as end:
        run_main(
            *(train_tool, config, '--peft', "dict(type='FLoRA', rank=8)"),
            *('--dump', 'run.py', '--cfg-options', 'train_cfg.max_iters=3'),
            'model.backbone.peft.adapter.rank=4',
        )
    assert not end.value.code
    text = (tmp_path / 'run.py').read_text()
    assert 'mmflora.AdapterCheckpointHook' in text
    assert 'max_iters=3' in text
    assert 'rank=4' in text
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--peft', 'flora-r17'], "Unknown method 'flora-r17'"),
        (['--peft', 'dict(type=open)'], 'plain value'),
        (['--base', 'x.pth'], '--base goes with --peft'),
        (['--peft-parts', 'neck'], '--peft-parts goes with --peft'),
        (['--peft', 'bitfit', '--dump', 'x.json'], 'give a .py file'),
        (['--peft', 'bitfit', '--base', 'x.pth'], 'x.pth'),
        (['--peft', 'bitfit', '--peft-parts', 'neck'], 'none is named'),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said(
    tmp_path, monkeypatch, train_tool, run_main, words, message
):
    monkeypatch.chdir(tmp_path)
    name = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    assert message in refused(run_main, train_tool, name, *words)
    assert not list(tmp_path.iterdir())
