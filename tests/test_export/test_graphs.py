"""Graphs of merged models, run by torch.export and onnxruntime."""

import onnx
import pytest
import torch
from torch import nn

from mmflora.export import GRAPH_BOUND, build_stock, export_graph, load_trained
from mmflora.export.dense_outputs import dense_outputs, random_images
from mmflora.export.graphs import run_onnx, run_program

from .conftest import SIZE, randomise

RUN = {'.pt2': run_program, '.onnx': run_onnx}
SLOW = pytest.mark.slow
# Default: each kind of model once, and both kinds of files.
CASES = [
    pytest.param('mmseg', True, '.onnx', id='backbone-onnx', marks=SLOW),
    pytest.param('mmseg', True, '.pt2', id='backbone-pt2'),
    pytest.param('mmseg', False, '.onnx', id='segmentor-onnx'),
    pytest.param('mmseg', False, '.pt2', id='segmentor-pt2', marks=SLOW),
    pytest.param('mmdet', False, '.onnx', id='detector-onnx', marks=SLOW),
    pytest.param('mmdet', False, '.pt2', id='detector-pt2'),
    pytest.param('mmrotate', False, '.onnx', id='rotated-onnx', marks=SLOW),
    pytest.param('mmrotate', False, '.pt2', id='rotated-pt2', marks=SLOW),
]


@pytest.fixture(scope='module')
def stock(trained_by_toolkit):
    """Build merged models, each once."""
    built = {}

    def get(toolkit):
        if toolkit not in built:
            trained = trained_by_toolkit[toolkit]
            built[toolkit] = build_stock(
                trained.cfg(), str(trained.checkpoint)
            )
        return built[toolkit]

    return get


@pytest.mark.parametrize(('toolkit', 'backbone_only', 'suffix'), CASES)
def test_numbers_are_those_of_the_adapted_model(
    stock, trained_by_toolkit, tmp_path, toolkit, backbone_only, suffix
):
    out = tmp_path / f'graph{suffix}'
    model = stock(toolkit)
    difference = export_graph(model, random_images(SIZE), out, backbone_only)
    assert difference.relative < GRAPH_BOUND
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    trained = trained_by_toolkit[toolkit]
    adapted, _ = load_trained(trained.cfg(), str(trained.checkpoint))
    images = random_images(SIZE, seed=7, number=3)
    wanted = dense_outputs(adapted, images, backbone_only)
    found = RUN[suffix](out, images)
    number = {'mmseg': 1, 'mmdet': 15, 'mmrotate': 15}[toolkit]
    assert len(found) == len(wanted) == (4 if backbone_only else number)
    for (name, value), other in zip(wanted.items(), found, strict=True):
        scale = value.abs().max()
        assert scale > 0
        assert (value - other).abs().max() < GRAPH_BOUND * scale, name
    if suffix == '.onnx':
        check_onnx(out, list(wanted))


def check_onnx(path, names):
    """Check names, and that only standard operators are in the graph."""
    content = onnx.load(path)
    onnx.checker.check_model(content)
    assert [value.name for value in content.graph.output] == names
    assert [value.name for value in content.graph.input] == ['images']
    assert {node.domain for node in content.graph.node} <= {'', 'ai.onnx'}
    assert content.opset_import[0].version >= 18


class Tiny(nn.Module):
    """Has what a segmentor has, and can be made to trace wrongly."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)
        self.decode_head = nn.Identity()
        self.calls = 0

    def forward(self, images, mode):
        self.calls += 1
        return self.backbone(images) * self.calls


def test_graph_that_computes_something_else_is_not_kept(tmp_path):
    out = tmp_path / 'graph.pt2'
    with pytest.raises(ValueError, match='file was not kept'):
        export_graph(Tiny(), random_images((16, 16)), out)
    assert list(tmp_path.iterdir()) == []


def test_adapters_are_merged_first(tmp_path):
    from mmflora.adapters import adapted_layers, inject

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 1))
    inject(model, dict(type='FLoRA', rank=2, kernel_rank=2))
    randomise(model)
    images = random_images((16, 16))
    wanted = model(images).detach()
    out = tmp_path / 'graph.pt2'
    export_graph(nn.Sequential(model), images, out)
    assert not adapted_layers(model)
    (found,) = run_program(out, images)
    torch.testing.assert_close(found, wanted)


def test_other_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"'\.pth'.*\.onnx.*\.pt2"):
        export_graph(Tiny(), random_images((16, 16)), tmp_path / 'a.pth')


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnxscript', None)
    with pytest.raises(ImportError, match=r'onnxscript.*export\.txt'):
        export_graph(Tiny(), random_images((16, 16)), tmp_path / 'a.onnx')
    assert list(tmp_path.iterdir()) == []
