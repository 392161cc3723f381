"""InternViT, which no toolkit has: merged, plain, and loaded without us."""

import inspect

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmflora.export import load_trained, plain_config
from mmflora.models import InternViT
from mmflora.models.plain.intern_vit_features import PlainInternViT

from . import stock_inference
from .conftest import BASE_KEY, ROOT
from .test_merging_methods import merge, write_trained
from .test_stock_inference import compare, run_stock

CONFIG = (
    ROOT / 'configs/flora/upernet_internvit-tiny_flora-r16_shapes-128x128.py'
)
TINY = dict(
    img_size=(24, 32),
    patch_size=8,
    embed_dims=32,
    depth=5,
    num_heads=4,
    out_indices=(0, 1, 2, 3),
)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    cfg = Config.fromfile(CONFIG).model.backbone
    known = inspect.signature(PlainInternViT).parameters
    options = {k: v for k, v in cfg.items() if k in known and k != 'init_cfg'}
    torch.manual_seed(0)
    state = InternViT(**options).state_dict()
    path = tmp_path_factory.mktemp('base') / 'base.pth'
    torch.save({f'backbone.{key}': state[key] for key in state}, path)
    return path


@pytest.fixture
def cfg(base):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({BASE_KEY: str(base)})
    return cfg


@pytest.fixture
def trained(cfg, tmp_path):
    checkpoint = tmp_path / 'trained.pth'
    write_trained(cfg, checkpoint)
    return checkpoint


CASES = {
    'pyramid': {},
    'no pyramid': dict(pyramid=False, out_indices=(1, 3)),
    'biases': dict(qkv_bias=True, qk_norm=False),
    'half': dict(dtype='bfloat16'),
}


@pytest.mark.parametrize('options', CASES.values(), ids=CASES)
@pytest.mark.parametrize('size', [(24, 32), (40, 16), (21, 30)])
@torch.no_grad()
def test_features_are_those_of_the_backbone(options, size):
    torch.manual_seed(0)
    ours = InternViT(**{**TINY, **options}).eval()
    for parameter in ours.parameters():
        parameter.normal_(std=0.2)
    plain = PlainInternViT(**{**TINY, **options}).eval()
    plain.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, *size)
    expected = ours(images)
    found = plain(images)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)
        assert one.dtype == torch.float32
        assert one.is_contiguous()
        assert one.std() > 0.01


@pytest.mark.parametrize('with_cp', [True, 'mlp'])
def test_recomputing_changes_no_gradient(with_cp):
    gradients = []
    for setting in (False, with_cp):
        torch.manual_seed(0)
        net = PlainInternViT(**TINY, with_cp=setting)
        images = torch.randn(1, 3, 24, 32)
        sum(x.square().sum() for x in net(images)).backward()
        gradients.append(net.blocks[0].mlp.fc1.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_merged_file_and_config(cfg, trained, tmp_path):
    out = tmp_path / 'merged.pth'
    report = merge(cfg, trained, out)
    names = [path.name for path in report.files]
    assert names == [
        'merged.pth',
        'merged_intern_vit.py',
        'merged_pyramid.py',
        'merged.py',
    ]
    assert report.difference.relative < 1e-4
    plain = Config.fromfile(report.files[-1])
    backbone = plain.model.backbone
    assert backbone.type == 'PlainInternViT'
    assert 'mmflora' not in report.files[-1].read_text()
    state = torch.load(out, weights_only=True)['state_dict']
    stock = MODELS.build({**backbone, 'type': 'PlainInternViT'})
    assert set(stock.state_dict()) == {
        key.removeprefix('backbone.')
        for key in state
        if key.startswith('backbone.')
    }


@pytest.mark.parametrize(
    ('dtype', 'kept', 'low'),
    [(None, torch.bfloat16, 0), ('float32', torch.float32, 0)],
)
def test_a_base_of_half_precision(cfg, tmp_path, dtype, kept, low):
    """As kept, or summed in float32."""
    cfg.model.backbone.update(dtype='bfloat16', autocast='bfloat16')
    checkpoint = tmp_path / 'half.pth'
    write_trained(cfg, checkpoint)
    out = tmp_path / 'merged.pth'
    report = merge(cfg, checkpoint, out, dtype=dtype)
    bound = 1e-4 if dtype else 1e-1
    assert low <= report.difference.relative < bound
    state = torch.load(out, weights_only=True)['state_dict']
    assert state['backbone.blocks.0.mlp.fc1.weight'].dtype == kept
    plain = Config.fromfile(out.with_suffix('.py'))
    wanted = 'bfloat16' if dtype is None else None
    assert plain.model.backbone.dtype == wanted


def test_timm_has_no_such_model(cfg, trained, tmp_path):
    with pytest.raises(ValueError, match='no model of timm does'):
        merge(
            cfg,
            trained,
            tmp_path / 'merged.pth',
            backbone_only=True,
            layout='timm',
        )
    assert not (tmp_path / 'merged.pth').exists()


def test_modules_need_nothing_of_mmflora(tmp_path):
    files = plain_config(Config.fromfile(CONFIG)).write(tmp_path / 'plain.py')
    names = ['merged_intern_vit.py', 'merged_pyramid.py', 'plain.py']
    assert [path.name for path in files] == names
    for path in files:
        assert 'mmflora' not in path.read_text()
        assert 'from .' not in path.read_text()


@pytest.mark.slow
def test_stock_mmseg_predicts_the_same(cfg, trained, picture, tmp_path):
    adapted, _ = load_trained(cfg, str(trained))
    adapted.cfg = cfg
    expected = stock_inference.predict('mmseg', adapted, str(picture))
    report = merge(cfg, trained, tmp_path / 'merged.pth')
    told = run_stock(
        'mmseg', report.files[-1], report.files[0], picture, tmp_path
    )
    compare(expected, told['result']['predictions'])
    assert told['result']['mmflora'] == []
