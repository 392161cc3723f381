"""Any parts of a model as frozen parts over a whole model's checkpoint."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from part_cases import (
    CASES,
    FLORA,
    batch,
    change,
    small_config,
    write_whole,
)
from torch import nn

from mmflora.adapters import adapted_layers
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import Role, parameter_roles
from mmflora.config.build import build_model
from mmflora.config.peft.parts import use_parts
from mmflora.models.kept_classes import KeptClasses


@pytest.fixture(scope='module', params=CASES)
def built(request, tmp_path_factory):
    """Return a case's model with frozen parts, and the file's weights."""
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    cfg = small_config(case, folder)
    state = write_whole(cfg, folder / 'whole.pth')
    change(cfg, case.classes)
    cfg.load_from = str(folder / 'whole.pth')
    changes = use_parts(cfg, case.parts)
    model = build_model(cfg)
    model.init_weights()
    return case, cfg, state, model, changes


def test_starts_from_the_file(built):
    case, cfg, state, model, _ = built
    kind = cfg.model.model_type.split('.')[-1]
    assert type(model).__name__ == kind
    ours = model.state_dict()
    new = {
        key for key, value in state.items() if value.shape != ours[key].shape
    }
    for key, value in state.items():
        if key not in new:
            assert torch.equal(ours[key], value), key
    assert bool(new) == bool(case.new)
    declared = [*cfg.model.get('new_params', ())]
    for settings in cfg.model.parts.values():
        declared += settings.get('new_params', ())
    assert set(declared) == case.new
    assert cfg.load_from is None


def test_a_step_trains_what_is_to_train(built):
    _, cfg, state, model, _ = built
    model = copy.deepcopy(model).train()
    assert model.init_weights.model is model
    torch.manual_seed(0)
    data = model.data_preprocessor(batch(cfg), True)
    losses = model.parse_losses(model(**data, mode='loss'))[0]
    assert torch.isfinite(losses)
    losses.backward()
    roles = list(parameter_roles(model))
    assert {item.part for item in roles} >= {*base_records(model)}
    for item in roles:
        assert item.parameter.requires_grad == item.trains, item.name
        if item.role is Role.BASE:
            assert item.parameter.grad is None, item.name
    cores = [layer.adapter for layer in adapted_layers(model).values()]
    assert cores
    without = [
        name
        for name, layer in adapted_layers(model).items()
        if not any(p.grad is not None for p in layer.adapter.parameters())
    ]
    assert without == []
    statistics = {k: v for k, v in state.items() if 'running' in k}
    parts = tuple(f'{name}.' for name in base_records(model))
    for key, value in statistics.items():
        if key.startswith(parts):
            assert torch.equal(model.state_dict()[key], value), key


@pytest.fixture(scope='module')
def segformer(tmp_path_factory):
    """Return a small config, and a file of its stock model."""
    folder = tmp_path_factory.mktemp('segformer')
    cfg = small_config(CASES['segformer'], folder)
    write_whole(cfg, folder / 'whole.pth')
    return cfg, folder / 'whole.pth'


PLAIN = dict(adapter=FLORA)


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (dict(decode_heads=PLAIN), 'nearest are decode_head'),
        (dict(neck=PLAIN), 'with weights are backbone, decode_head'),
        (dict(data_preprocessor=PLAIN), 'has no weights'),
        ({'decode_head': PLAIN, 'decode_head.convs': PLAIN}, 'lies inside'),
        ({'(': PLAIN}, 'no regular expression'),
        (
            {'decode_head.convs.0.bn': PLAIN},
            r"part 'decode_head\.convs\.0\.bn': `targets`.* none",
        ),
        (
            {'decode_head': dict(adapter=FLORA, rnak=2)},
            "part|parts.*no setting 'rnak'",
        ),
        ({'decode_head': dict(PLAIN, targets='nix')}, "part 'decode_head'"),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_parts_that_cannot_be(segformer, parts, message):
    cfg, path = segformer
    before = cfg.pretty_text
    with pytest.raises((ValueError, TypeError), match=message):
        use_parts(Config(cfg.to_dict()), parts, str(path))
    assert cfg.pretty_text == before


def write_changed(path, out, change_keys):
    state = torch.load(path, weights_only=True)['state_dict']
    torch.save(dict(state_dict=change_keys(state)), out)
    return str(out)


@pytest.mark.parametrize(
    ('change_keys', 'message'),
    [
        (
            lambda state: {f'teacher.{k}': v for k, v in state.items()},
            r"one of another model.*prefix='teacher\.'",
        ),
        (
            lambda state: {k: v for k, v in state.items() if 'backbone' in k},
            r"'decode_head': 0 of .*start with 'backbone'",
        ),
        (
            lambda state: {
                **state,
                'backbone.base_record.info': torch.zeros(1),
            },
            'Merge it first',
        ),
    ],
    ids=['prefix', 'half', 'adapters'],
)
def test_bases_of_another_kind(segformer, tmp_path, change_keys, message):
    cfg, path = segformer
    base = write_changed(path, tmp_path / 'other.pth', change_keys)
    parts = dict(backbone=PLAIN, decode_head=PLAIN)
    with pytest.raises(ValueError, match=message):
        use_parts(Config(cfg.to_dict()), parts, base)
    with pytest.raises(ValueError, match='--base FILE'):
        use_parts(Config(cfg.to_dict()), parts)


def test_a_file_is_accounted_for_key_by_key(segformer, tmp_path):
    """What it lacks is new, what it has beyond is unused: both declared."""
    cfg, path = segformer
    cfg = Config(cfg.to_dict())

    def change_keys(state):
        lost = 'decode_head.convs.1.conv.weight'
        kept = {k: v for k, v in state.items() if k != lost}
        more = {'mask_head.0.weight': torch.ones(2), 'backbone.x': state[lost]}
        return {f'module.{k}': v for k, v in {**kept, **more}.items()}

    base = write_changed(path, tmp_path / 'base.pth', change_keys)
    head = dict(PLAIN, exclude=r'convs\.1\..*')
    use_parts(cfg, dict(backbone=PLAIN, decode_head=head), base)
    assert cfg.model.parts.decode_head.new_params == [
        r'convs\.1\.conv\.weight'
    ]
    assert cfg.model.parts.backbone.unused_keys == ['x']
    assert cfg.model.unused_keys == [r'mask_head\.\d+\.weight']
    model = build_model(cfg)
    model.init_weights()
    weight = model.decode_head.convs[1].conv.weight
    assert weight.requires_grad
    assert weight.std() > 0
    for place in ('decode_head.new_params', 'backbone.unused_keys'):
        strict = Config(cfg.to_dict())
        strict.merge_from_dict({f'model.parts.{place}': []})
        with pytest.raises(ValueError, match='do not fit'):
            build_model(strict)
    cfg.model.unused_keys = []
    with pytest.raises(ValueError, match='do not fit'):
        build_model(cfg).init_weights()


def test_a_weight_that_is_used_elsewhere_gets_no_adapter():
    class Shared(nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.part = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.part = Part(self.part)
            self.part.layers[0].weight = self.first[0].weight

    class Part(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

    cfg = dict(type='mmflora.PEFTModel', model_type=Shared)
    with pytest.raises(ValueError, match=r"also 'first\.0\.weight'"):
        MODELS.build(dict(cfg, parts=dict(part=PLAIN)))
    parts = dict(part=dict(PLAIN, exclude=r'layers\.0'))
    model = MODELS.build(dict(cfg, parts=parts))
    shared = model.first[0].weight
    assert not shared.requires_grad
    roles = {item.name: item for item in parameter_roles(model)}
    assert roles['first.0.weight'].role is Role.BASE
    assert not roles['first.0.weight'].trains


def test_classes_that_stay_keep_their_weights(tmp_path):
    case = CASES['dino']
    cfg = small_config(case, tmp_path)
    state = write_whole(cfg, tmp_path / 'whole.pth')
    names = [f'class {index}' for index in range(80)]
    meta = dict(dataset_meta=dict(classes=names))
    torch.save(dict(state_dict=state, meta=meta), tmp_path / 'whole.pth')
    change(cfg, case.classes)
    cfg.train_dataloader = dict(
        dataset=dict(
            type='CocoDataset',
            metainfo=dict(classes=('new', 'class 15', 'class 2')),
            pipeline=[],
        )
    )
    changes = use_parts(cfg, case.parts, str(tmp_path / 'whole.pth'))
    assert cfg.model.kept_classes == dict(count=80, rows=[None, 15, 2])
    (said,) = [c for c in changes if c.place == 'model.kept_classes']
    assert said.after == 'class 15, class 2'
    model = build_model(cfg)
    model.init_weights()
    for key in (
        'bbox_head.cls_branches.1.weight',
        'bbox_head.cls_branches.1.bias',
        'dn_query_generator.label_embedding.weight',
    ):
        ours = model.state_dict()[key]
        assert torch.equal(ours[1:], state[key][[15, 2]]), key
        assert not torch.isin(ours[0], state[key]).any()


def test_kept_rows_of_a_background_and_of_boxes():
    kept = KeptClasses(3, [2, None])
    assert kept.places('roi_head.fc_cls.weight', (4, 9), (3, 9)) == [
        (0, 2),
        (2, 3),
    ]
    assert kept.places('roi_head.fc_reg.bias', (12,), (8,)) == [
        (k, 8 + k) for k in range(4)
    ]
    assert kept.places('neck.conv.weight', (12, 3), (8, 3)) == []
    assert kept.places('fc.weight', (3, 5), (2, 6)) == []


def test_a_model_around_it_may_start_it(tmp_path):
    from mmengine.model import BaseModule

    cfg = small_config(CASES['dino'], tmp_path)
    state = write_whole(cfg, tmp_path / 'whole.pth')
    cfg.load_from = str(tmp_path / 'whole.pth')
    use_parts(cfg, CASES['dino'].parts)
    tracker = BaseModule()
    tracker.detector = build_model(cfg)
    tracker.init_weights()
    ours = tracker.detector.state_dict()
    for key, value in state.items():
        assert torch.equal(ours[key], value), key
