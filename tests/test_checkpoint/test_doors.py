"""A checkpoint that leaves a part of a model random is refused everywhere.

The doors are those of MMEngine, MMDetection and MMSegmentation themselves.
"""

import copy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint

from mmflora.adapter_files import from_checkpoint, write_adapter
from mmflora.checkpoint import BaseRecord, adapter_state_dict
from mmflora.config.build import build_model, read_config
from mmflora.config.check import check_paths
from mmflora.models import ConvNeXt

sys.path.append(str(Path(__file__).parents[1]))
from test_engine.toy import TINY, ToyModel, backbone_cfg, runner, write_base

FLORA = Path(__file__).parents[2] / 'configs/flora'
NAMES = dict(
    mmdet='mask-rcnn_convnextv2-atto_flora-r16_shapes.py',
    mmseg='upernet_convnextv2-atto_flora-r16_shapes-128x128.py',
)
HEADS = dict(mmdet='roi_head.bbox_head.fc_cls', mmseg='decode_head.conv_seg')
BASE = 'model.backbone.init_cfg.checkpoint'


def init_detector(config, weights):
    from mmdet.apis import init_detector

    return init_detector(config, weights, palette='random', device='cpu')


def det_inferencer(config, weights):
    from mmdet.apis import DetInferencer

    return DetInferencer(config, weights, device='cpu', palette='random').model


def init_model(config, weights):
    from mmseg.apis import init_model

    return init_model(config, weights, device='cpu')


def seg_inferencer(config, weights):
    from mmseg.apis import MMSegInferencer

    return MMSegInferencer(config, weights=weights, device='cpu').model


DOORS = [
    ('mmdet', init_detector),
    ('mmdet', det_inferencer),
    ('mmseg', init_model),
    ('mmseg', seg_inferencer),
]
TOOLKITS = pytest.mark.parametrize(
    ('toolkit', 'door'),
    DOORS,
    ids=lambda door: getattr(door, '__name__', door),
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """By toolkit a config, and the checkpoint of a training with it."""
    folder = tmp_path_factory.mktemp('trained')
    torch.manual_seed(0)
    base = ConvNeXt('convnextv2_atto').state_dict()
    torch.save(
        {f'backbone.{key}': value for key, value in base.items()},
        folder / 'base.pth',
    )
    made = {}
    for toolkit, name in NAMES.items():
        options = {BASE: str(folder / 'base.pth')}
        cfg = read_config(str(FLORA / name), options)
        config = folder / name
        cfg.dump(config)
        with adapter_state_dict():
            state = build_model(cfg).state_dict()
        meta = dict(
            cfg=cfg.pretty_text,
            dataset_meta=dict(classes=('a',) * 6, palette=[(0, 0, 0)] * 6),
        )
        path = folder / f'{toolkit}.pth'
        torch.save(dict(state_dict=state, meta=meta), path)
        made[toolkit] = str(config), path
    return made


def damaged(path, key, target, change):
    """Write a copy of a checkpoint in which a tensor is another, or gone."""
    content = torch.load(path, weights_only=True)
    content['state_dict'] = dict(content['state_dict'])
    if change == 'missing':
        del content['state_dict'][key]
    else:
        value = content['state_dict'][key]
        content['state_dict'][key] = torch.cat([value, value])
    torch.save(content, target)
    return target


@TOOLKITS
def test_a_whole_checkpoint_passes(trained, toolkit, door):
    config, path = trained[toolkit]
    model = door(config, str(path))
    state = torch.load(path, weights_only=True)['state_dict']
    loaded = model.state_dict()
    for key in state.keys() - {'backbone.base_record.info'}:
        assert torch.equal(loaded[key], state[key]), key


@TOOLKITS
@pytest.mark.parametrize('kind', ['checkpoint', 'adapter'])
@pytest.mark.parametrize('change', ['missing', 'of another shape'])
def test_a_gap_is_refused(trained, toolkit, door, kind, change, tmp_path):
    config, path = trained[toolkit]
    key = f'{HEADS[toolkit]}.bias'
    target = damaged(path, key, tmp_path / 'damaged.pth', change)
    if kind == 'adapter':
        target = write_adapter(from_checkpoint(target), tmp_path / 'adapter')
    with pytest.raises(ValueError, match=rf'(?s){change}.*{key}'):
        door(config, str(target))


@pytest.mark.parametrize('toolkit', NAMES)
def test_another_toolkits_adapter_is_refused(trained, toolkit):
    (other,) = set(NAMES) - {toolkit}
    door = dict(DOORS[::2])[toolkit]
    with pytest.raises(ValueError, match='would stay random'):
        door(trained[toolkit][0], str(trained[other][1]))


def wrapped(cfg):
    """Name the backbone of a config through PEFTBackbone."""
    backbone = dict(cfg.model.backbone, type='mmflora.ConvNeXt')
    cfg.model.backbone = dict(
        type='mmflora.PEFTBackbone',
        peft=backbone.pop('peft'),
        backbone=backbone,
    )
    return cfg


def as_tools_test(config, weights):
    cfg = read_config(config)
    cfg.test_dataloader = cfg.test_evaluator = None
    check_paths(cfg, 'test')
    model = build_model(cfg)
    load_checkpoint(model, weights)
    return model


@pytest.mark.parametrize('wrap', [False, True], ids=['FLoRA', 'PEFTBackbone'])
@pytest.mark.parametrize(
    ('toolkit', 'door'),
    [*DOORS, ('mmdet', as_tools_test)],
    ids=lambda door: getattr(door, '__name__', door),
)
def test_a_base_that_moved_is_named_the_same_way_everywhere(
    trained, toolkit, door, wrap, tmp_path, monkeypatch
):
    config, path = trained[toolkit]
    cfg = read_config(config)
    base = Path(cfg.model.backbone.init_cfg.checkpoint)
    gone = str(tmp_path / 'gone' / base.name)
    cfg.model.backbone.init_cfg.checkpoint = gone
    cfg = wrapped(cfg) if wrap else cfg
    config = tmp_path / 'config.py'
    cfg.dump(config)
    content = torch.load(path, weights_only=True)
    info = content['state_dict']['backbone.base_record.info']
    content['state_dict']['backbone.base_record.info'] = renamed(info, gone)
    path = tmp_path / 'moved.pth'
    torch.save(content, path)
    with pytest.raises(FileNotFoundError, match='MMFLORA_BASES=FOLDER'):
        door(str(config), str(path))
    folder = tmp_path / 'another folder, with blanks'
    folder.mkdir()
    shutil.copy(base, folder)
    monkeypatch.setenv('MMFLORA_BASES', f'nowhere:{folder}')
    loaded = door(str(config), str(path)).state_dict()
    for key, value in torch.load(base, weights_only=True).items():
        if 'norm' not in key:  # those of outputs were trained
            assert torch.equal(loaded[key], value), key


def renamed(info, checkpoint):
    """Return a record that names another file with the same content."""
    said = BaseRecord.decode(info)
    record = BaseRecord((), (), said['method'])
    source = dict(said['source'], checkpoint=checkpoint)
    record.set_base(source, said['sha256'], said['origin'])
    return record.info


@pytest.fixture
def toy(tmp_path):
    """A base, and a checkpoint of adapters over it with a head of three."""
    base = write_base(tmp_path / 'base.pth')
    with adapter_state_dict():
        state = ToyModel(backbone_cfg(base)).state_dict()
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'adapters.pth')
    return base, str(tmp_path / 'adapters.pth')


def test_adapters_need_a_backbone_that_takes_them(toy):
    """A plain one would stay random: the file leaves its base out."""
    plain = ToyModel(dict(type='mmflora.ConvNeXt', arch=TINY))
    with pytest.raises(ValueError, match=r'missing in the file: backbone\.'):
        load_checkpoint(plain, toy[1])


def test_a_runner_with_mmengines_hook_refuses_too(toy, tmp_path):
    base, path = toy
    other = ToyModel(backbone_cfg(base), num_classes=5)
    testing = runner(
        tmp_path / 'test',
        backbone_cfg(base),
        model=other,
        test=True,
        default_hooks=dict(checkpoint=CheckpointHook(interval=1)),
        load_from=path,
    )
    with pytest.raises(ValueError, match=r'of another shape: head\.weight'):
        testing.test()


@pytest.mark.parametrize('ema', [False, True], ids=['plain', 'ema'])
@pytest.mark.parametrize('hook', [False, True], ids=['mmengine', 'mmflora'])
def test_load_from_keeps_another_head_and_says_so(toy, tmp_path, ema, hook):
    base, path = toy
    options = {}
    if not hook:
        options['default_hooks'] = dict(checkpoint=CheckpointHook(interval=1))
    training = runner(
        tmp_path / 'on',
        backbone_cfg(base),
        model=ToyModel(backbone_cfg(base), num_classes=5),
        epochs=1,
        load_from=path,
        custom_hooks=[dict(type='EMAHook')] * ema,
        **options,
    )
    seen = {}
    training.hooks[0].before_train = lambda *_: seen.update(
        copy.deepcopy(training.model.state_dict())
    )
    training.train()
    state = torch.load(path, weights_only=True)['state_dict']
    for key in state:
        if key.startswith(('backbone.', 'neck.')) and 'info' not in key:
            assert torch.equal(seen[key], state[key]), key
    assert seen['head.weight'].shape == (5, 8)
    (log,) = (tmp_path / 'on').glob('*/*.log')
    told = [line for line in log.read_text().splitlines() if 'head.w' in line]
    assert len([line for line in told if 'size mismatch' in line]) == 1
    assert MMLogger.get_current_instance() is training.logger
