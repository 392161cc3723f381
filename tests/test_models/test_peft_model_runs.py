"""A model with frozen parts through training, tests, merges and files."""

import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from part_cases import CASES, as_list, change, small_config, write_whole

import mmflora
from mmflora.adapter_files import apply_adapter
from mmflora.adapter_files.read import read_any
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import base_keys
from mmflora.config.build import build_model, build_runner
from mmflora.config.peft.parts import use_parts
from mmflora.config.walk import frozen_parts
from mmflora.count.parameters import build_on_meta, count_model
from mmflora.export import MergeOptions, build_stock, merge_checkpoint
from mmflora.export.transformer_outputs import comparable_outputs
from mmflora.memory_estimate import BatchShape, predict
from mmflora.memory_estimate.estimate import count_real_step
from mmflora.tasks import TaskSet

CASE = CASES['dino']


def with_runtime(cfg, folder, epochs=2):
    return Config(
        dict(
            **cfg.to_dict(),
            work_dir=str(folder),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='pseudo_collate'),
                dataset=dict(type='mmengine.MadeDetections'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(
                constructor='mmflora.PEFTOptimWrapperConstructor',
                optimizer=dict(type='AdamW', lr=1e-2),
            ),
            default_hooks=dict(
                checkpoint=dict(type='mmflora.AdapterCheckpointHook'),
                adapter_gradient=dict(type='mmflora.AdapterGradientHook'),
            ),
            randomness=dict(seed=0),
        )
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Train the small DINO for two steps, after one and a resume."""
    folder = tmp_path_factory.mktemp('run')
    cfg = small_config(CASE, folder)
    write_whole(cfg, folder / 'whole.pth')
    write_whole(cfg, folder / 'other.pth', seed=1)
    change(cfg, CASE.classes)
    use_parts(cfg, CASE.parts, str(folder / 'whole.pth'))
    runner = build_runner(with_runtime(cfg, folder / 'work', 1))
    runner.train()
    again = with_runtime(cfg, folder / 'work', 2)
    again.resume = True
    runner = build_runner(again)
    runner.train()
    model = runner.model.eval()
    images = torch.randn(2, 3, 64, 64)
    return folder, cfg, model, folder / 'work/epoch_2.pth', images


def outputs(model, images):
    return comparable_outputs(model.eval(), images)


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key], theirs[key]) for key in ours
    )


def test_a_checkpoint_holds_no_base_and_comes_back(run):
    folder, cfg, model, path, images = run
    stored = torch.load(path, weights_only=True)
    state = stored['state_dict']
    assert not base_keys(model) & state.keys()
    assert {*stored['meta']['mmflora']['backbones']} == {*CASE.parts}
    whole = torch.load(folder / 'whole.pth')['state_dict']
    for key in base_keys(model):
        assert torch.equal(model.state_dict()[key], whole[key]), key
    fresh = build_model(cfg)
    load_checkpoint(fresh, str(path))
    expected = outputs(model, images)
    assert 'memory' in expected
    assert same(outputs(fresh, images), expected)
    # Without the base's name in the config, the record brings it.
    bare = build_model(cfg, weights=False)
    load_checkpoint(bare, str(path))
    assert same(outputs(bare, images), expected)


def test_another_base_is_refused_and_a_moved_one_found(
    run, tmp_path, monkeypatch
):
    folder, cfg, model, path, images = run
    other = Config(cfg.to_dict())
    other.model.init_cfg.checkpoint = str(folder / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth'):
        load_checkpoint(build_model(other), str(path))
    moved = tmp_path / 'moved'
    moved.mkdir()
    shutil.move(folder / 'whole.pth', moved)
    try:
        with pytest.raises(FileNotFoundError, match='MMFLORA_BASES'):
            build_model(cfg)
        with pytest.raises(FileNotFoundError, match='MMFLORA_BASES'):
            load_checkpoint(build_model(cfg, weights=False), str(path))
        monkeypatch.setenv('MMFLORA_BASES', str(moved))
        fresh = build_model(cfg)
        load_checkpoint(fresh, str(path))
        assert same(outputs(fresh, images), outputs(model, images))
    finally:
        shutil.move(moved / 'whole.pth', folder)


def test_merges_into_the_stock_model(run, tmp_path):
    folder, cfg, model, path, images = run
    whole = with_runtime(cfg, folder)
    out, plain = tmp_path / 'merged.pth', tmp_path / 'plain.py'
    said = []
    merge_checkpoint(
        whole, str(path), out, plain, MergeOptions(size=(64, 64)), said.append
    )
    stock = small_config(CASE, tmp_path)
    change(stock, CASE.classes)
    written = Config.fromfile(plain)
    assert written.model.type == 'DINO'
    assert not {'parts', 'model_type', 'new_params'} & written.model.keys()
    assert 'mmflora' not in plain.read_text()
    stock = build_model(stock, weights=False)
    state = torch.load(out, weights_only=True)['state_dict']
    stock.load_state_dict(state, strict=True)
    assert [*state] == [*stock.state_dict()]
    merged, adapted = outputs(stock, images), outputs(model, images)
    for key, value in adapted.items():
        torch.testing.assert_close(merged[key], value, rtol=1e-4, atol=1e-5)
    weight = 'encoder.layers.0.self_attn.value_proj.weight'
    base = torch.load(folder / 'whole.pth')['state_dict'][weight]
    assert not torch.equal(state[weight], base)
    assert type(build_stock(whole, str(path))) is type(stock)


def test_adapter_files_and_tasks(run, tmp_path):
    _, cfg, model, path, images = run
    model.cfg = with_runtime(cfg, tmp_path)
    mmflora.save_adapter(build_and_load(cfg, path), tmp_path / 'a.safetensors')
    adapter = read_any(tmp_path / 'a.safetensors')
    assert adapter.config['model'] == 'DINO'
    assert {*adapter.config['backbones']} == {*CASE.parts}
    layouts = [
        b['base']['layout'] for b in adapter.config['backbones'].values()
    ]
    assert layouts == [None] * len(CASE.parts)
    fresh = build_model(cfg)
    apply_adapter(fresh, adapter)
    assert same(outputs(fresh, images), outputs(model, images))
    tasks = TaskSet()
    first = tasks.load('first', Config(cfg.to_dict()), adapter)
    second = tasks.load('second', Config(cfg.to_dict()), adapter)
    places = [
        m.state_dict()[key].data_ptr()
        for m in (first, second)
        for key in ['decoder.layers.0.ffn.layers.1.weight']
    ]
    assert len(set(places)) == 1
    assert same(outputs(second, images), outputs(model, images))


def build_and_load(cfg, path):
    model = build_model(cfg)
    load_checkpoint(model, str(path))
    return model


def test_counts_without_weights(run):
    _, cfg, model, path, _ = run
    count = count_model(build_on_meta(cfg))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count.trainable == trained
    parts = [part.place for part in frozen_parts(cfg)]
    assert parts == [f'model.parts.{name}' for name in CASE.parts]
    stored = torch.load(path, weights_only=True)['state_dict']
    assert count.file_bytes == sum(
        value.numel() * value.element_size() for value in stored.values()
    )


def test_inference_by_the_toolkit(run):
    from mmdet.apis import init_detector

    _, cfg, model, path, images = run
    config = Config(cfg.to_dict())
    found = init_detector(config, str(path), device='cpu', palette='random')
    assert same(outputs(found, images), outputs(model, images))
    assert {*base_records(found)} == {*as_list([*CASE.parts])}


@pytest.mark.parametrize('name', ['dino', 'segformer'])
def test_memory_is_predicted(run, tmp_path, name):
    if name == 'dino':
        cfg = with_runtime(run[1], tmp_path)
    else:
        cfg = adapted_case(name, tmp_path)
    (found,) = predict(cfg, [BatchShape(2, 64, 64, 3)])
    model = build_on_meta(cfg)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert found.weights['base', 'float32'] >= 4 * frozen


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['dino', 'deformable-detr', 'mask2former', 'mask2former-mmseg']
)
def test_memory_of_matched_queries_is_predicted_to_the_byte(tmp_path, name):
    cfg = adapted_case(name, tmp_path)
    cfg.model.data_preprocessor.pop('batch_augments', None)  # to 1024 x 1024
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadAnnotations', with_mask=name == 'mask2former')
    ]
    shape = BatchShape(2, 64, 64, 3)
    (found,) = predict(cfg, [shape], for_gpu=False)
    assert found == count_real_step(cfg, shape)
    assert found.assigns
    assert not found.assumed


def test_memory_of_a_step_that_fails_is_refused(run, tmp_path):
    shape = BatchShape(2, 16, 16, 3)  # fewer places than queries
    with pytest.raises(ValueError, match='16x16 are too small.*--size'):
        predict(with_runtime(run[1], tmp_path), [shape])


def adapted_case(name, folder):
    """Return a case's config, adapted, to train."""
    case = CASES[name]
    cfg = small_config(case, folder)
    write_whole(cfg, folder / 'whole.pth')
    use_parts(cfg, case.parts, str(folder / 'whole.pth'))
    return with_runtime(cfg, folder)
