"""huggingface/peft's folders through tools/adapters.py, both ways.

Backbones are timm's own, wrapped and saved by peft itself.
"""

import json
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from test_tools.conftest import load_tool

from mmflora.config.build import register_toolkit

peft = pytest.importorskip('peft')

ROOT = Path(__file__).parents[2]
UPERNET = (
    ROOT / 'configs/flora/upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
)
VIT = dict(
    img_size=32,
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=2,
)
MLP = r'.*mlp\.fc[12]'
# The backbone of a config, timm's name of it with its arguments, the layers,
# and the name of its classifier.
CASES = {
    'convnext': (
        dict(type='mmflora.PEFTConvNeXt', arch='convnextv2_atto'),
        ('convnextv2_atto', {}),
        MLP,
        'fc',
    ),
    'vit': (
        dict(
            type='mmflora.TimmBackbone',
            model_name='vit_tiny_patch16_224',
            out_indices=(0, 1),
            **VIT,
        ),
        ('vit_tiny_patch16_224', VIT),
        r'blocks\.\d\.(attn\.(qkv|proj)|mlp\.fc[12])',
        'head',
    ),
}
LORA = dict(r=4, lora_alpha=6)


@pytest.fixture(scope='module')
def tool():
    return load_tool('adapters')


class Case:
    """A backbone of timm, a config with it, and LoRAs for both."""

    def __init__(self, name, folder, **lora):
        self.backbone, self.timm, self.layers, self.head = CASES[name]
        self.folder, self.lora = folder, {**LORA, **lora}
        self.base = folder / 'base.pth'
        torch.manual_seed(0)
        net = self.stock(classes=3)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        torch.save(net.state_dict(), self.base)
        self.config = folder / 'config.py'
        self.cfg().dump(self.config)

    def stock(self, classes=0, load=False):
        name, options = self.timm
        net = timm.create_model(name, num_classes=classes, **options).eval()
        if load:
            state = torch.load(self.base, weights_only=True)
            net.load_state_dict(
                {k: v for k, v in state.items() if k in net.state_dict()}
            )
        return net

    def cfg(self):
        cfg = Config.fromfile(UPERNET)
        init_cfg = dict(type='Pretrained', checkpoint=str(self.base))
        adapter = dict(type='HFPEFT', peft_type='LORA', **self.lora)
        options = dict(adapter=adapter, targets=self.layers)
        if self.backbone['type'] == 'mmflora.TimmBackbone':
            cfg.model.backbone = dict(
                type='mmflora.PEFTBackbone',
                backbone=dict(self.backbone, init_cfg=init_cfg),
                **options,
            )
        else:
            cfg.model.backbone = dict(
                self.backbone, init_cfg=init_cfg, **options
            )
        return cfg

    def build(self):
        cfg = Config.fromfile(self.config)
        register_toolkit(cfg)
        init_default_scope(cfg.default_scope)
        return MODELS.build(cfg.model).eval()

    def images(self):
        source = torch.Generator().manual_seed(1)
        return torch.randn(2, 3, 32, 32, generator=source)

    @torch.no_grad()
    def features(self, net):
        """Return timm's intermediate features, before any norm of ours."""
        return net.forward_intermediates(
            self.images(), indices=[0, 1], intermediates_only=True, norm=False
        )

    @torch.no_grad()
    def our_features(self, model):
        if self.backbone['type'] == 'mmflora.TimmBackbone':
            return model.backbone(self.images())
        x, found = model.backbone.stem(self.images()), []
        for stage in model.backbone.stages[:2]:
            x = stage(x)
            found.append(x)
        return found


def saved_by_peft(case, **options):
    """Let peft adapt, fill and save timm's model; return it."""
    config = peft.LoraConfig(
        target_modules=f'.*{case.layers}',
        modules_to_save=[case.head],
        **{**case.lora, **options},
    )
    model = peft.get_peft_model(case.stock(classes=3, load=True), config)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if 'lora_' in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(str(case.folder / 'theirs'))
    return model.base_model.model


def run(tool, capsys, *words):
    tool.main([str(word) for word in words])
    return capsys.readouterr().out


def close(ours, theirs):
    assert len(ours) == len(theirs) == 2
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('variant', [None, 'use_rslora', 'use_dora'])
def test_there_and_back(tool, tmp_path, capsys, variant):
    """From peft to a checkpoint that starts a training, and to peft again."""
    for name in CASES:
        folder = tmp_path / name
        folder.mkdir()
        case = Case(name, folder, **({variant: True} if variant else {}))
        theirs = saved_by_peft(case)
        expected = case.features(theirs)
        start = folder / 'start.pth'
        printed = run(
            tool,
            capsys,
            *('import', folder / 'theirs', start, '--from', 'peft'),
            *('--config', case.config),
        )
        assert 'adapters alone' in printed
        assert_starts_a_training_alone(case, start)
        model = case.build()
        before = case.our_features(model)
        assert not torch.allclose(before[1], expected[1], atol=1e-2)
        state = torch.load(start, weights_only=True)['state_dict']
        model.load_state_dict(state, strict=False)
        close(case.our_features(model), expected)

        run(
            tool,
            capsys,
            *('export', start, folder / 'ours', '--to', 'peft'),
            *('--config', case.config),
        )
        again = peft.PeftModel.from_pretrained(
            case.stock(load=True), str(folder / 'ours')
        ).eval()
        close(case.features(again.base_model.model), expected)
        names = {n for n, _ in again.named_parameters() if 'lora_A' in n}
        assert len(names) > 3


def assert_starts_a_training_alone(case, start):
    """`load_from` leaves all else as it is, and a test refuses the file."""
    content = torch.load(start, weights_only=True)
    layers = case.build().state_dict().keys()
    adapters = {key for key in layers if '.adapter.' in key}
    assert set(content['state_dict']) == {
        *adapters,
        'backbone.base_record.info',
    }
    from mmseg.apis import init_model

    with pytest.raises(ValueError, match='would stay random'):
        init_model(str(case.config), str(start), device='cpu')
    model = case.build()
    model.init_weights()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_checkpoint(model, str(start))
    after = model.state_dict()
    for key, value in before.items():
        assert torch.equal(value, after[key]) or key in adapters, key
    assert not model.backbone.base_record.method.get('imported')


def rewrite(case, **changes):
    path = case.folder / 'theirs/adapter_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(init_lora_weights='pissa'), 'changes the base itself'),
        (dict(bias='all'), "bias='none'"),
        (dict(use_qalora=True), 'use_qalora.*a variant of LoRA'),
    ],
    ids=str,
)
def test_what_would_mean_something_else(tool, tmp_path, changes, message):
    case = Case('vit', tmp_path)
    saved_by_peft(case)
    rewrite(case, **changes)
    words = ('import', tmp_path / 'theirs', tmp_path / 'start.pth')
    more = ('--from', 'peft', '--config', case.config)
    with pytest.raises(SystemExit, match=message):
        tool.main([str(word) for word in (*words, *more)])
    assert not (tmp_path / 'start.pth').exists()
