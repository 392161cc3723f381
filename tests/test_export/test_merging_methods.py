"""Every kind of method through tools/merge.py, or a refusal.

Default: one of each kind.  Slow: all small configs of Mask R-CNN.
"""

import pytest
import torch
from mmengine.config import Config

from mmflora.adapters import random_starts
from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.record import base_records
from mmflora.export import MergeOptions, build_model, merge_checkpoint
from mmflora.export.plain_config import plain_config

from .conftest import BASE_KEY, CONFIGS, ROOT, SIZE, randomise

UPERNET = CONFIGS['mmseg']
MLP = r'stages\.\d\.blocks\.\d\.mlp\.fc\d'
METHODS = {
    'dora': dict(adapter=dict(type='DoRA', rank=4)),
    'ssf': dict(
        adapter=dict(type='SSF'),
        targets={'.*': {}, r'.*\.norm': dict(type='NormTuning')},
    ),
    'bitfit': dict(adapter=dict(type='BitFit')),
    'full': dict(adapter=dict(type='Full')),
    'loha': dict(adapter=dict(type='HFPEFT', peft_type='LOHA', r=4)),
    'peft dora': dict(
        adapter=dict(type='HFPEFT', peft_type='LORA', r=4, use_dora=True),
        targets=MLP,
    ),
    'lora and full': dict(
        adapter=dict(type='LoRA', rank=4),
        targets={r'.*\.conv_dw': dict(type='Full'), '.*': {}},
    ),
}
BOTTLENECKS = {
    'houlsby': dict(type='Houlsby', width=4),
    'pfeiffer': dict(type='Pfeiffer', width=4),
    'adaptformer': dict(type='AdaptFormer', width=4),
    'mona': dict(type='Mona', width=4),
}
REFUSED = (
    *BOTTLENECKS,
    *('compacter', 'conv-adapter', 'e3va', 'ladder', 'lorand', 'mosa'),
    *('queryable-lora', 'sct'),
)
SMALL = ROOT.glob('configs/*/mask-rcnn_convnextv2-atto_*_shapes.py')


def configure(base, backbone, config=UPERNET):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({BASE_KEY: str(base)})
    for name in ('adapter', 'targets', 'exclude'):
        cfg.model.backbone.pop(name, None)
    cfg.model.backbone.update(type='mmflora.PEFTConvNeXt', **backbone)
    return cfg


@torch.no_grad()
def write_trained(cfg, path, seed=0):
    """Write what a training of a config leaves, all of it moved."""
    torch.manual_seed(seed)
    model = build_model(cfg)
    model.init_weights()
    random_starts(model)
    randomise(model, seed)
    for layer in model.backbone.modules():
        scale = getattr(getattr(layer, 'adapter', None), 'scale', None)
        if isinstance(scale, torch.nn.Parameter):
            scale.mul_(0.2).add_(1)
    ((backbone, record),) = base_records(model).values()
    for key in record.tuned_keys:
        parameter = backbone.get_parameter(key)
        parameter.add_(0.05 * torch.randn_like(parameter))
    with adapter_state_dict():
        state = model.state_dict()
    torch.save(dict(meta={}, state_dict=state), path)


def merge(cfg, checkpoint, out, **options):
    return merge_checkpoint(
        cfg,
        str(checkpoint),
        out,
        out.with_suffix('.py'),
        MergeOptions(size=SIZE, **options),
        say=lambda text: None,
    )


def check(cfg, checkpoint, out):
    """Merge, and check the file against the stock model and the base."""
    report = merge(cfg, checkpoint, out)
    assert report.difference.relative < 1e-4
    state = torch.load(out, weights_only=True)['state_dict']
    stock = build_model(plain_config(cfg).cfg)
    assert list(state) == list(stock.state_dict())
    stock.load_state_dict(state, strict=True)
    frozen = torch.load(cfg.model.backbone.init_cfg.checkpoint)['state_dict']
    return {
        key
        for key, value in frozen.items()
        if not torch.equal(value, state[key])
    }


@pytest.mark.parametrize('method', METHODS)
def test_merged_and_verified(segmentor, tmp_path, method):
    cfg = configure(segmentor.base, METHODS[method])
    checkpoint = tmp_path / 'trained.pth'
    write_trained(cfg, checkpoint)
    moved = check(cfg, checkpoint, tmp_path / 'merged.pth')
    weights = {k for k in moved if k.endswith('fc1.weight')}
    biases = {k for k in moved if k.endswith('fc1.bias')}
    assert bool(weights) == (method != 'bitfit')
    assert bool(biases) == (method in ('ssf', 'bitfit', 'full'))


@pytest.mark.parametrize('adapter', BOTTLENECKS.values(), ids=BOTTLENECKS)
def test_bottlenecks_are_refused(segmentor, tmp_path, adapter):
    cfg = configure(segmentor.base, dict(adapter=adapter))
    checkpoint = tmp_path / 'trained.pth'
    write_trained(cfg, checkpoint)
    with pytest.raises(ValueError, match='cannot be merged.*Keep the adapter'):
        merge(cfg, checkpoint, tmp_path / 'merged.pth')
    assert [path.name for path in tmp_path.iterdir()] == ['trained.pth']


@pytest.mark.slow
@pytest.mark.parametrize(
    'config', sorted(SMALL), ids=lambda path: path.parent.name
)
def test_every_small_config_merges_or_says_why_not(detector, tmp_path, config):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({BASE_KEY: str(detector.base)})
    checkpoint = tmp_path / 'trained.pth'
    write_trained(cfg, checkpoint)
    if config.parent.name in REFUSED:
        message = 'cannot be merged.*Keep the adapter'
        with pytest.raises(ValueError, match=message):
            merge(cfg, checkpoint, tmp_path / 'merged.pth')
        return
    moved = check(cfg, checkpoint, tmp_path / 'merged.pth')
    # Norms of the outputs are new: they train with every method.
    norms = {key for key in moved if key.startswith('backbone.norm')}
    assert len(norms) == 8
    assert bool(moved - norms) == (config.parent.name != 'frozen')
