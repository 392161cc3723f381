import pytest
from mmengine.registry import MODELS
from torch.utils.checkpoint import checkpoint

from .toy import ToyModel, backbone_cfg, runner, write_base


@pytest.fixture
def config(tmp_path):
    return backbone_cfg(write_base(tmp_path / 'base.pth'))


def test_healthy_adapters_train(tmp_path, config):
    built = runner(tmp_path / 'run', config, epochs=1)
    built.train()
    assert built.iter == 3


def test_reentrant_checkpointing_is_noticed(tmp_path, config):
    model = ToyModel(config)
    backbone = model.backbone
    block = backbone.stages[0].blocks[0]
    forward = block.forward
    # The frozen stem's output needs no gradient: re-entrant checkpointing
    # cuts the graph here.
    backbone.stem[0].adapter.requires_grad_(False)
    block.forward = lambda x: checkpoint(
        forward, x.detach(), use_reentrant=True
    )
    built = runner(tmp_path / 'run', config, model=model, epochs=1)
    with pytest.raises(RuntimeError, match=r'got no gradient.*re-entrant'):
        built.train()


def test_layer_that_is_never_called_is_noticed(tmp_path, config):
    model = ToyModel(config)
    block = model.backbone.stages[3].blocks[0]
    block.mlp.fc2.forward = lambda x: x[..., :32]
    built = runner(tmp_path / 'run', config, model=model, epochs=1)
    with pytest.raises(RuntimeError, match=r'stages\.3.*fc2.*exclude'):
        built.train()


def test_unadapted_models_are_left_alone(tmp_path):
    plain = dict(type='mmflora.ConvNeXt', arch=backbone_cfg()['arch'])
    built = runner(
        tmp_path / 'run',
        plain,
        epochs=1,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    )
    built.train()
    assert built.iter == 3
    assert MODELS.get('mmflora.ConvNeXt') is not None
