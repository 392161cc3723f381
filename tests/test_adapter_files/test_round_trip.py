"""Export, import, and the predictions in between."""

import json

import pytest
import torch
from mmengine.registry import init_default_scope
from test_engine.toy import Logits, backbone_cfg, runner

from mmflora.adapter_files import (
    apply_adapter,
    from_checkpoint,
    read_adapter,
    write_adapter,
    write_checkpoint,
)
from mmflora.adapter_files.provenance import logged_metrics

from .conftest import same, tensors_of

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def predictions(base, checkpoint, folder):
    """Return what Runner.test() predicts."""
    built = runner(folder, backbone_cfg(base), test=True)
    built._load_from = str(checkpoint)
    built.test()
    return Logits.last


def test_import_gives_a_checkpoint_with_equal_predictions(
    run, checkpoint, written, tmp_path
):
    imported = write_checkpoint(read_adapter(written), tmp_path / 'back.pth')
    base = run / 'base.pth'
    expected = predictions(base, checkpoint, tmp_path / 'a')
    got = predictions(base, imported, tmp_path / 'b')
    assert torch.equal(got, expected)
    # Its record brings the base where a model has none, as in init_detector.
    assert torch.equal(predictions(None, imported, tmp_path / 'c'), expected)
    theirs = torch.load(checkpoint, weights_only=True)['state_dict']
    ours = torch.load(imported, weights_only=True)['state_dict']
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_every_form_holds_the_same(adapter, tmp_path):
    forms = [
        write_adapter(adapter, tmp_path / name)
        for name in ('folder', 'single.safetensors')
    ]
    for form in forms:
        assert same(read_adapter(form), adapter)
    checkpoint = write_checkpoint(adapter, tmp_path / 'back.pth')
    again = from_checkpoint(checkpoint)
    assert again.tensors.keys() == adapter.tensors.keys()
    assert again.backbone()['base'] == adapter.backbone()['base']
    assert sorted(path.name for path in forms[0].iterdir()) == [
        'adapter_config.json',
        'adapter_model.safetensors',
    ]


def test_description_says_what_the_adapter_is(run, written):
    config = json.loads(tensors_of(written)[1]['mmflora'])
    if written.is_dir():
        text = (written / 'adapter_config.json').read_text()
        assert json.loads(text) == config
    assert config['schema_version'] == 1
    assert config['toolkit'] == 'mmengine'
    assert config['dataset_meta'] == {'classes': ['a', 'b', 'c']}
    assert config['metrics'] == {'coco/bbox_mAP': 0.25}
    assert config['training'] == dict(epoch=1, iter=3)
    assert {'mmflora', 'torch', 'timm'} < config['versions'].keys()
    (backbone,) = config['backbones'].values()
    assert backbone['method']['adapter'] == dict(type='FLoRA', rank=4)
    assert backbone['method']['targets'] == '.*'
    base = backbone['base']
    assert base['source']['checkpoint'] == str(run / 'base.pth')
    assert base['layout'] == 'timm'
    assert len(base['sha256']) == 64
    assert base['saved_along'] is False


def test_a_base_without_a_source_travels_along(tmp_path, build):
    config = backbone_cfg(allow_random_base=True)
    trained = runner(tmp_path / 'run', config, epochs=1)
    trained.train()
    adapter = from_checkpoint(tmp_path / 'run/epoch_1.pth')
    assert adapter.backbone()['base']['saved_along'] is True
    read = read_adapter(write_adapter(adapter, tmp_path / 'adapter'))
    model = apply_adapter(build(base=None), read).eval()
    expected = trained.model.eval()
    with torch.no_grad():
        assert torch.equal(model(IMAGES), expected(IMAGES))


def test_metrics_of_the_same_step_come_from_the_log(tmp_path):
    log = tmp_path / '20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    lines = [
        dict(lr=0.1, loss=2.0, epoch=2, iter=6, step=2),
        {'coco/bbox_mAP': 0.1, 'time': 0.2, 'step': 1},
        {'coco/bbox_mAP': 0.3, 'time': 0.2, 'step': 2},
    ]
    text = '\n'.join(json.dumps(line) for line in lines) + '\n{"broken'
    log.write_text(text)
    for name, expected in {
        'epoch_2.pth': {'coco/bbox_mAP': 0.3},
        'epoch_1.pth': {'coco/bbox_mAP': 0.1},
        'best_coco_bbox_mAP_epoch_2.pth': {'coco/bbox_mAP': 0.3},
        'epoch_3.pth': {},
        'final.pth': {},
    }.items():
        assert logged_metrics(tmp_path / name) == expected


@pytest.mark.parametrize('scope', ['mmseg', None])
def test_toolkit_is_compared(adapter, build, scope):
    adapter.config['toolkit'] = 'mmdet'
    init_default_scope('mmengine')
    with pytest.raises(ValueError, match='belongs to a model of mmdet'):
        apply_adapter(build(), adapter, toolkit=scope)
    apply_adapter(build(), adapter, toolkit='mmdet')
