"""Two toolkits on one base: loading, predicting, drawing, the tool."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from test_tools.conftest import load_tool

from mmflora.adapter_files import from_checkpoint, write_adapter
from mmflora.adapter_files.write import write_adapter as write
from mmflora.checkpoint import adapter_state_dict
from mmflora.config.build import register_toolkit
from mmflora.models import ConvNeXt
from mmflora.tasks import MultiTaskInferencer, TaskSet

from .conftest import randomise

ROOT = Path(__file__).parents[2]
FLORA = ROOT / 'configs/flora'
CONFIGS = dict(
    boxes=FLORA / 'mask-rcnn_convnextv2-atto_flora-r16_shapes.py',
    land=FLORA / 'upernet_convnextv2-atto_flora-r16_shapes-128x128.py',
)


def predict_alone(config, checkpoint, image):
    """Predict as the toolkits do, with a base of the model's own."""
    if 'mask-rcnn' in config.filename:
        from mmdet.apis import inference_detector, init_detector

        model = init_detector(config, str(checkpoint), device='cpu')
        found = inference_detector(model, image).pred_instances
        return [found.bboxes, found.scores, found.labels]
    from mmseg.apis import inference_model, init_model

    model = init_model(config, str(checkpoint), device='cpu')
    return [inference_model(model, image).seg_logits.data]


def tensors(sample):
    if 'seg_logits' in sample:
        return [sample.seg_logits.data]
    found = sample.pred_instances
    return [found.bboxes, found.scores, found.labels]


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    """Checkpoints of both configs over one base, and an image."""
    folder = tmp_path_factory.mktemp('tasks')
    torch.manual_seed(0)
    net = ConvNeXt('convnextv2_atto').state_dict()
    torch.save(
        dict(state_dict={f'backbone.{key}': net[key] for key in net}),
        folder / 'base.pth',
    )
    sources = {}
    for seed, (name, path) in enumerate(CONFIGS.items()):
        config = Config.fromfile(path)
        config.model.backbone.init_cfg.checkpoint = str(folder / 'base.pth')
        register_toolkit(config)
        init_default_scope(config.default_scope)
        model = randomise_adapters(MODELS.build(config.model), seed)
        with adapter_state_dict():
            state = model.state_dict()
        meta = dict(
            cfg=config.pretty_text,
            dataset_meta=dict(
                classes=tuple('abcdef'), palette=[[9, 9, 9]] * 6
            ),
        )
        file = folder / f'{name}.pth'
        torch.save(dict(state_dict=state, meta=meta), file)
        sources[name] = (config, file)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'image.png')
    return folder, sources


def randomise_adapters(model, seed):
    randomise(model.backbone, seed)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.3)
    return model


def test_two_toolkits_predict_on_one_base(shared, tmp_path):
    folder, sources = shared
    image = str(folder / 'image.png')
    files = {
        name: (config, write_adapter(from_checkpoint(file), tmp_path / name))
        for name, (config, file) in sources.items()
    }
    inferencer = MultiTaskInferencer(files)
    predictions = inferencer(image)
    assert list(predictions) == ['boxes', 'land']
    for name, sample in predictions.items():
        expected = predict_alone(*sources[name], image)
        for ours, theirs in zip(tensors(sample), expected, strict=True):
            assert torch.equal(ours, theirs), name
    assert list(inferencer(image, ['land'])) == ['land']
    tasks = inferencer.tasks
    models = [tasks[name].model.backbone for name in files]
    for key in models[0].base_record.base_keys:
        ours, theirs = (model.get_parameter(key) for model in models)
        assert ours.data_ptr() == theirs.data_ptr(), key
    pictures = inferencer.draw(image, predictions, tmp_path / 'drawn')
    for picture in pictures:
        assert Image.open(picture).size == (128, 128)


def test_pixels_paths_and_disabled_adapters(shared):
    """Each call gives the same, whatever the calls before were given."""
    folder, sources = shared
    path = str(folder / 'image.png')
    pixels = np.asarray(Image.open(path))[..., ::-1].copy()
    inferencer = MultiTaskInferencer(sources)
    first = inferencer(path)
    for image in (pixels, path, pixels):
        for name, sample in inferencer(image).items():
            expected = tensors(first[name])
            for ours, theirs in zip(tensors(sample), expected, strict=True):
                assert torch.equal(ours, theirs), name
    assert inferencer(path)['land'].img_path == path
    inferencer.tasks.activate('land')
    inferencer.tasks.disable()
    off = inferencer(path)
    assert not torch.equal(
        off['land'].seg_logits.data, first['land'].seg_logits.data
    )
    assert torch.equal(
        off['boxes'].pred_instances.scores,
        first['boxes'].pred_instances.scores,
    )


def test_loading_reads_the_base_once(shared, monkeypatch):
    folder, sources = shared
    tasks, moved = TaskSet(), folder / 'moved.pth'
    (folder / 'base.pth').rename(moved)
    try:
        with pytest.raises(FileNotFoundError, match='needs its base'):
            tasks.load('boxes', *sources['boxes'])
        assert tasks.names() == []
        tasks.load('boxes', *sources['boxes'], base=str(moved))
        # The base is resident: its file is not looked for.
        tasks.load('land', *sources['land'])
    finally:
        moved.rename(folder / 'base.pth')
    assert tasks.names() == ['boxes', 'land']
    with pytest.raises(ValueError, match='belongs to a model of mmdet'):
        tasks.load('wrong', sources['land'][0], sources['boxes'][1])


def test_images_and_tasks_are_checked(shared):
    _, sources = shared
    inferencer = MultiTaskInferencer({'land': sources['land']})
    with pytest.raises(FileNotFoundError, match='Image not found'):
        inferencer('none.png')
    with pytest.raises(ValueError, match="no task 'sea'"):
        inferencer(np.zeros((64, 64, 3), np.uint8), ['sea'])


def test_the_tool_predicts_and_combines(shared, tmp_path, capsys):
    folder, sources = shared
    words = ['predict', folder / 'image.png', '--out', tmp_path / 'out']
    for name, (config, file) in sources.items():
        path = tmp_path / f'{name}.py'
        config.dump(path)
        words += ['--task', name, path, file]
    tool = load_tool('adapters')
    with pytest.raises(SystemExit, match="error: --device: 'cuda:99' cannot"):
        tool.main([*map(str, words), '--device', 'cuda:99'])
    tool.main([str(word) for word in words])
    printed = capsys.readouterr().out
    assert 'shared base' in printed
    for name in sources:
        assert (tmp_path / f'out/{name}.png').is_file()
    adapter = from_checkpoint(sources['land'][1])
    one = write(adapter, tmp_path / 'one.safetensors')
    out = tmp_path / 'sum.safetensors'
    words = ['combine', out, one, one, '--weights', '0.5', '0.5']
    tool.main([str(word) for word in words])
    assert "'rank': 32" in capsys.readouterr().out
    assert out.is_file()
