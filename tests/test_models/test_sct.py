"""SCT: a matrix on the salient channels of each sum."""

import pytest
import timm
import torch
from backbone_cases import CASES, build, images, in_mode
from torch import nn

import mmflora
from mmflora.adapters import adapted_modules, disabled, merge

EXACT = dict(rtol=1e-10, atol=1e-12)
SCT = dict(type='SCT', salient=5, scale=0.5)
NAMES = (
    'mmflora ConvNeXt',
    'mmdet SwinTransformer',
    'mmseg VisionTransformer',
    'timm vision transformer',
    'timm Swin',
)


def of(name, calibrate=True):
    torch.manual_seed(0)
    net = build(
        CASES[name],
        None,
        SCT,
        calibration=dict(batches=1),
        allow_random_base=True,
    )
    net = in_mode(net).double()
    if calibrate:
        in_mode(net, True)
        mmflora.calibrate(net, batches(name), loss_of(net))
        in_mode(net)
    return net


def batches(name):
    pictures = images(CASES[name]).double()
    return [pictures, 2 * pictures.flip(0) + 0.3]


def loss_of(net):
    return lambda batch: sum(x.square().mean() for x in net(batch))


def randomise(net):
    with torch.no_grad():
        for module in adapted_modules(net).values():
            for parameter in module.adapter.parameters():
                nn.init.normal_(parameter, std=0.3)
    return net


def sums_of(net, pictures):
    """Return the sums behind attention and MLP of a plain transformer."""
    found = {}
    hooks = []
    for number, block in enumerate(net.blocks):
        for name, part in ((f'{number}.attn', 'norm2'), (f'{number}.mlp', '')):
            hooks.append(
                block.get_submodule(part).register_forward_hook(
                    lambda module, inputs, output, name=name, part=part: (
                        found.update({name: inputs[0] if part else output})
                    )
                )
            )
    net(pictures)
    for hook in hooks:
        hook.remove()
    return found


def test_the_channels_of_the_largest_mean_norms_are_chosen():
    net = of('timm vision transformer')
    norms = {}
    for batch in batches('timm vision transformer'):
        with disabled(net):
            for name, h in sums_of(net, batch).items():
                per_image = h.square().sum(1).sqrt()
                norms.setdefault(name, []).append(per_image)
    assert len(norms) == 2 * len(net.blocks)
    for name, parts in norms.items():
        mean = torch.cat(parts).mean(0)
        expected = sorted(mean.argsort()[-5:].tolist())
        adapter = net.blocks.get_submodule(name).adapter
        assert adapter.chosen.tolist() == expected
        assert expected != [*range(5)]


def test_the_formula_at_each_sum():
    """Each sum is that of the frozen branches, on which the matrix acts."""
    net = randomise(of('timm vision transformer'))
    pictures = images(CASES['timm vision transformer']).double()
    found = sums_of(net, pictures)
    inputs = []
    hook = net.blocks[0].register_forward_pre_hook(
        lambda _, given: inputs.append(given[0])
    )
    net(pictures)
    hook.remove()

    def with_salient(adapter, h):
        out, salient = h.clone(), h[..., adapter.chosen]
        made = salient @ adapter.weight.T + adapter.bias
        out[..., adapter.chosen] += 0.5 * made
        return out

    x = inputs[0]
    for number, block in enumerate(net.blocks):
        with disabled(net):
            h = x + block.ls1(block.attn(block.norm1(x)))
            h = with_salient(block.attn.adapter, h)
            torch.testing.assert_close(h, found[f'{number}.attn'], **EXACT)
            x = h + block.ls2(block.mlp(block.norm2(h)))
            x = with_salient(block.mlp.adapter, x)
            torch.testing.assert_close(x, found[f'{number}.mlp'], **EXACT)


def test_the_formula_on_maps():
    net = randomise(of('mmflora ConvNeXt'))
    pictures = images(CASES['mmflora ConvNeXt']).double()
    block, seen = net.stages[0].blocks[0], []
    block.register_forward_hook(lambda *given: seen.append(given))
    net(pictures)
    with disabled(net):
        frozen = block(seen[0][1][0])
    adapter, expected = block.mlp.adapter, frozen.clone()
    salient = frozen[:, adapter.chosen]
    made = torch.einsum('oi,nihw->nohw', adapter.weight, salient)
    expected[:, adapter.chosen] += 0.5 * (made + adapter.bias[:, None, None])
    torch.testing.assert_close(seen[0][2], expected, **EXACT)


@pytest.mark.parametrize('name', NAMES)
def test_starts_as_the_base_learns_and_is_kept(name):
    net = of(name)
    pictures = images(CASES[name]).double()
    with disabled(net):
        frozen = net(pictures)
    assert all(map(torch.equal, net(pictures), frozen))
    moved = randomise(net)(pictures)
    assert not any(map(torch.equal, moved, frozen))
    loss_of(net)(pictures).backward()
    for module in adapted_modules(net).values():
        assert all(p.grad.any() for p in module.adapter.parameters())
    other = of(name, calibrate=False)
    with pytest.raises(RuntimeError, match="'channel norms'"):
        in_mode(other, True)(pictures)
    other.load_state_dict(net.state_dict())
    assert not mmflora.calibrate(other, batches(name), loss_of(other))
    assert all(map(torch.equal, in_mode(other)(pictures), moved))
    with pytest.raises(ValueError, match='behind the sum of a block'):
        merge(net)


def test_small_updates_survive_autocast():
    net = of('timm vision transformer').float()
    pictures = images(CASES['timm vision transformer'])
    own = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(own, lr=1e-7)
    adapters = [m.adapter for m in adapted_modules(net).values()]
    for adapter in adapters:
        nn.init.ones_(adapter.weight)
    before = [adapter.weight.clone() for adapter in adapters]
    with torch.autocast('cpu', torch.bfloat16):
        loss_of(net)(pictures).backward()
    optimizer.step()
    for adapter, old in zip(adapters, before, strict=True):
        assert adapter.weight.dtype == torch.float32
        change = adapter.weight.detach() - old
        # Steps below bfloat16's 2⁻⁸ of one are kept, in units of 2⁻²³.
        assert change.any()
        assert change.abs().max() < 2**-8


def test_golden_count_of_vit_b():
    with torch.device('meta'):
        model = timm.create_model('vit_base_patch16_224', num_classes=0)
    mmflora.inject(model, dict(type='SCT'), targets=r'.*\.attn')
    trained = [p for p in model.parameters() if p.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    # Twelve matrices of 96 × 96 with biases; the abstract has 0.11 M.
    assert count == 12 * (96 * 96 + 96)
    assert round(count / 1e6, 2) == 0.11
