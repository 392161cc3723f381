"""tools/search_adapters.py: what it refuses, and whole ways through it."""

import json

import pytest
from mmengine.config import Config
from test_search.conftest import SUPERNET, train

from .conftest import CONFIGS, load_tool, refused
from .test_intern_vit_runs import base  # noqa: F401
from .test_runs import read_metric

FLORA = (
    CONFIGS / 'flora-supernet/mask-rcnn_convnextv2-atto_'
    'flora-supernet-r16_shapes.py'
)
NOAH = CONFIGS / 'noah/upernet_internvit-tiny_noah_shapes-128x128.py'
LOADERS = ('train', 'val', 'test')
IN_PROCESS = tuple(f'{one}_dataloader.num_workers=0' for one in LOADERS)


@pytest.fixture(scope='module')
def tool():
    return load_tool('search_adapters')


@pytest.fixture(scope='module')
def supernets(tmp_path_factory):
    """Checkpoints of toys: a supernet, and one without nested ranks."""
    folder = tmp_path_factory.mktemp('supernets')
    plain = dict(type='LoRA', rank=2)
    return dict(
        nested=train(folder, SUPERNET, 'nested', epochs=1),
        plain=train(folder, plain, 'plain', epochs=1),
        missing=folder / 'nothing.pth',
    )


@pytest.mark.parametrize(
    ('checkpoint', 'words', 'part'),
    [
        ('nested', '--budget 1', 'smallest architecture takes'),
        ('nested', '--budget 3e5', "--budget: '3e5' is no number of"),
        ('nested', '--budget 1k --population 0', '`population` is an integer'),
        ('nested', '--budget 1k --mutation 2', 'mutation is a probability'),
        ('plain', '--budget 1k', 'type LoRA whose training draws no ranks'),
        ('missing', '--budget 1k', 'nothing.pth'),
    ],
)
def test_refusals(
    tool, supernets, run_main, tmp_path, checkpoint, words, part
):
    given = [FLORA, supernets[checkpoint], *words.split()]
    out = tmp_path / 'found'
    message = refused(run_main, tool, *given, '--out', out)
    assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_config_without_validation(tool, supernets, run_main, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{FLORA}'\n"
        'val_dataloader = None\nval_evaluator = None\nval_cfg = None\n'
    )
    words = (config, supernets['nested'], '--budget', '1k')
    message = refused(run_main, tool, *words, '--out', tmp_path / 'found')
    assert 'has no val_dataloader' in message


def search(config, checkpoint, out, budget):
    return (
        *('search_adapters.py', config, checkpoint, '--budget', budget),
        *('--out', out, '--population', '3', '--generations', '2'),
        *('--cfg-options', *IN_PROCESS),
    )


def check_search(folder, name, budget):
    """Check the files of a search; return the config and the rows."""
    lines = (folder / f'{name}.jsonl').read_text().splitlines()
    header, *rows = map(json.loads, lines)
    assert len(rows) == 6
    assert all(row['parameters'] <= budget for row in rows)
    assert header['budget'] == budget
    assert (folder / f'{name}.png').stat().st_size > 10_000
    assert (folder / f'{name}.safetensors').is_file()
    return Config.fromfile(str(folder / f'{name}.py')), rows


@pytest.mark.slow
def test_ranks_of_a_convolutional_network(workspace):
    options = ('--cfg-options', *IN_PROCESS, 'train_cfg.max_epochs=1')
    made = search(FLORA, 'flora_supernet/epoch_1.pth', 'flora_found', '60k')
    _, first, again, tested, trained, _ = workspace.run_tools(
        ('train.py', FLORA, '--work-dir', 'flora_supernet', *options),
        made,
        made,
        (
            *('test.py', 'flora_found.py', 'flora_found.safetensors'),
            *options[:-1],
        ),
        ('train.py', 'flora_found.py', *options),
        (
            *('merge.py', 'flora_found.py'),
            *('work_dirs/flora_found/epoch_1.pth', '--out', 'merged.pth'),
        ),
    )
    cfg, rows = check_search(workspace.folder, 'flora_found', 60_000)
    assert again.count('(from the log)') == 6
    assert '(from the log)' not in first
    targets = cfg.model.backbone.peft.targets
    assert {own['type'] for own in targets.values()} == {'FLoRA'}
    # Test and validation data are the same here.
    best = max(row['metrics']['coco/bbox_mAP'] for row in rows)
    assert f'best {best:.4f}' in first
    found = float(read_metric(tested, 'test', 'coco/bbox_mAP'))
    assert found == pytest.approx(best, abs=0.002)
    assert read_metric(trained, 'val', 'coco/bbox_mAP')
    assert (workspace.folder / 'merged.pth').is_file()


@pytest.mark.slow
def test_noah(workspace, base):  # noqa: F811
    short = ('train_cfg.max_iters=4', 'train_cfg.val_interval=4')
    short = ('--cfg-options', *IN_PROCESS, *short)
    made = search(NOAH, 'noah_supernet/iter_4.pth', 'noah_found', '20k')
    _, _, tested, trained = workspace.run_tools(
        ('train.py', NOAH, '--work-dir', 'noah_supernet', *short),
        made,
        (
            *('test.py', 'noah_found.py', 'noah_found.safetensors'),
            *('--cfg-options', *IN_PROCESS),
        ),
        (
            *('train.py', 'noah_found.py', *short),
            'load_from=noah_found.safetensors',
        ),
    )
    cfg, rows = check_search(workspace.folder, 'noah_found', 20_000)
    kinds = {own['type'] for own in cfg.model.backbone.peft.targets.values()}
    assert kinds <= {'VPT', 'LoRA', 'Pfeiffer'}
    # Test and validation data are the same here.
    best = max(row['metrics']['mIoU'] for row in rows)
    assert float(read_metric(tested, 'test', 'mIoU')) == pytest.approx(
        best, abs=0.02
    )
    assert read_metric(trained, 'val', 'mIoU')
