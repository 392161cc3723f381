"""tools/adapters.py extract and import --from, on a small real config."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from test_tools.conftest import load_tool

from mmflora.adapter_files import read_adapter
from mmflora.adapter_files.apply import build_and_check
from mmflora.adapters import adapted_layers, merge
from mmflora.config.build import build_model, register_toolkit
from mmflora.extract import formats
from mmflora.extract.command import extract
from mmflora.models import ConvNeXt

from .test_authors import in_their_keys

ROOT = Path(__file__).parents[2]
NAME = 'upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
INTERN_VIT = 'upernet_internvit-tiny_flora-r16_shapes-128x128.py'
MLP, DEPTHWISE = r'.*mlp\.fc[12]', r'.*conv_dw'


@pytest.fixture(scope='module')
def tool():
    return load_tool('adapters')


@pytest.fixture(scope='module')
def tuned(tmp_path_factory):
    """A base and a fine-tuning of it whose update has rank 4."""
    folder = tmp_path_factory.mktemp('tuned')
    torch.manual_seed(0)
    net = ConvNeXt('convnextv2_atto').state_dict()
    base = folder / 'base.pth'
    torch.save({f'backbone.{key}': net[key] for key in net}, base)
    config = Config.fromfile(ROOT / 'configs/flora' / NAME)
    config.model.backbone.init_cfg.checkpoint = str(base)
    config.model.backbone.adapter = dict(type='FLoRA', rank=4)
    config.dump(folder / 'config.py')
    register_toolkit(config)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.adapter.core, std=0.05)
    torch.save(in_their_keys(model.backbone, True, ''), folder / 'authors.pth')
    merge(model)
    state = {k: v for k, v in model.state_dict().items() if 'record' not in k}
    torch.save(dict(state_dict=state, meta={}), folder / 'tuned.pth')
    return folder, state


def run(tool, capsys, *words):
    tool.main([str(word) for word in words])
    return capsys.readouterr().out


def test_extract(tool, tuned, tmp_path, capsys):
    folder, state = tuned
    out, picture = tmp_path / 'extracted', tmp_path / 'spectrum.png'
    printed = run(
        tool,
        capsys,
        'extract',
        *(folder / 'base.pth', folder / 'tuned.pth', out),
        *('--config', folder / 'config.py', '--spectrum', picture),
        *('--rank', 4),
    )
    assert picture.is_file()
    total = [line for line in printed.splitlines() if line.startswith('all,')]
    assert len(total) == 1
    assert '100.0%' in total[0]
    adapter = read_adapter(out)
    assert adapter.config['toolkit'] == 'mmseg'
    model = build_and_check(Config.fromfile(folder / 'config.py'), adapter)
    merge(model)
    for key, value in state.items():
        torch.testing.assert_close(
            model.state_dict()[key], value, rtol=1e-4, atol=1e-4
        )


def test_a_budget_is_written_as_in_the_other_tools(tool, monkeypatch):
    asked = []

    def extract(*_, budget, **__):
        asked.append(budget)
        raise ValueError('enough')

    monkeypatch.setattr('mmflora.extract.command.extract', extract)
    words = ['extract', 'b.pth', 't.pth', 'out', '--config', 'c.py']
    with pytest.raises(SystemExit, match='error: enough'):
        tool.main([*words, '--budget', '19.3k'])
    assert asked == [19_300]
    with pytest.raises(SystemExit, match="error: --budget: 'much' is no num"):
        tool.main([*words, '--budget', 'much'])


# What changes in a shipped config, and a budget that a rank of another kernel
# rank would just keep.
BUDGETS = {
    'kernel rank 3': (
        NAME,
        dict(adapter=dict(kernel_rank=3), targets=DEPTHWISE),
        19_300,
    ),
    'kernel rank of some layers': (
        NAME,
        dict(targets={DEPTHWISE: dict(rank=5, kernel_rank=7), MLP: {}}),
        61_500,
    ),
    'a list of ranks': (
        NAME,
        dict(adapter=dict(rank=[4, 4, 1, 1]), targets=MLP),
        60_000,
    ),
    'intern vit': (INTERN_VIT, {}, 60_000),
    "the backbone's own scale": (INTERN_VIT, dict(_delete_=True), 60_000),
}


@pytest.mark.parametrize(
    ('name', 'changes', 'budget'), BUDGETS.values(), ids=BUDGETS
)
def test_a_budget_is_kept_and_the_result_loads(
    tmp_path, name, changes, budget
):
    config = Config.fromfile(ROOT / 'configs/flora' / name)
    config.merge_from_dict(dict(model=dict(backbone=dict(peft=changes))))
    backbone = config.model.backbone
    base = tmp_path / 'base.pth'
    backbone.init_cfg.checkpoint = str(base)
    model = build_model(config, weights=False)
    state = {
        key: value
        for key, value in model.state_dict().items()
        if '.adapter.' not in key and 'record' not in key
    }
    torch.save(state, base)
    for key, value in state.items():
        if key.endswith('weight') and value.dim() > 1:
            state[key] = value + 0.01 * torch.randn_like(value)
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'tuned.pth')
    said = []
    adapter, rows = extract(
        copy.deepcopy(config),
        *(str(base), str(tmp_path / 'tuned.pth')),
        budget=budget,
        say=said.append,
    )
    used = sum(
        adapter.tensors[key].numel() for key in adapter.groups()['adapters']
    )
    assert used == sum(row.parameters for row in rows) <= budget
    method = adapter.backbone()['method']['adapter']
    assert f'rank {method["rank"]} keeps within {budget} ' in said[0]
    # The config with the rank that was found takes the adapter as it is, so
    # that scale, kernel ranks and targets are the config's own.
    if 'adapter' not in backbone.peft:
        backbone.peft.adapter = dict(method)
        assert method == dict(type='FLoRA', rank=method['rank'], scale=0.04)
    backbone.peft.adapter.rank = method['rank']
    if isinstance(changes.get('targets'), dict):
        backbone.peft.targets[DEPTHWISE].pop('rank')
    build_and_check(config, adapter)
    # One rank more is too much: the best that fits was taken.
    backbone.peft.adapter.rank += 1
    above = build_model(config, device='meta', weights=False)
    assert budget < sum(
        parameter.numel()
        for layer in adapted_layers(above).values()
        for parameter in layer.adapter.parameters()
    )


@torch.no_grad()
def test_import_from_the_authors(tool, tuned, tmp_path, capsys):
    folder, state = tuned
    out = tmp_path / 'start.pth'
    printed = run(
        tool,
        capsys,
        *('import', folder / 'authors.pth', out, '--from', 'authors'),
        *('--config', folder / 'config.py'),
    )
    assert 'adapters alone' in printed
    model = MODELS.build(Config.fromfile(folder / 'config.py').model)
    loaded = torch.load(out, weights_only=True)['state_dict']
    assert not any('head' in key or 'norm0' in key for key in loaded)
    model.load_state_dict(loaded, strict=False)
    for name, layer in adapted_layers(model).items():
        torch.testing.assert_close(
            layer.adapted_weight(),
            state[f'{name}.weight'],
            rtol=1e-5,
            atol=1e-6,
        )


def test_foreign_adapters_need_a_config(tool, tuned, tmp_path):
    folder, _ = tuned
    for words in (
        ('import', folder / 'authors.pth', 'x.pth', '--from', 'authors'),
        ('export', folder / 'tuned.pth', 'x', '--to', 'peft'),
    ):
        with pytest.raises(SystemExit, match='need --config'):
            tool.main([str(word) for word in words])


@torch.no_grad()
def test_a_format_of_ones_own(tool, tuned, tmp_path, monkeypatch):
    """A format registers; import and export then know it."""
    folder, _ = tuned

    def read(backbone, path):
        value = float(Path(path).read_text())
        for layer in adapted_layers(backbone).values():
            layer.adapter.core.fill_(value)

    def write(backbone, path):
        (layer, *_) = adapted_layers(backbone).values()
        Path(path).write_text(str(float(layer.adapter.core.mean())))

    monkeypatch.setitem(formats.FORMATS, 'number', formats.Format(read, write))
    start, again = tmp_path / 'start.pth', tmp_path / 'again'
    (tmp_path / 'number').write_text('0.5')
    config = '--config', folder / 'config.py'

    def call(*words):
        tool.main([str(word) for word in (*words, *config)])

    call('import', tmp_path / 'number', start, '--from', 'number')
    call('export', start, again, '--to', 'number')
    assert again.read_text() == '0.5'
    with pytest.raises(
        SystemExit, match='known are mmflora, peft, authors, n'
    ):
        call('import', again, start, '--from', 'letter')
    with pytest.raises(SystemExit, match='known are mmflora, peft, number'):
        call('export', start, again, '--to', 'authors')
