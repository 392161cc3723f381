"""ConvNeXt weights in the layouts that their publishers use."""

import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt

# The two generations differ in layer scale and GRN; sizes up to tiny have 1×1
# convolutions where larger ones have linear layers.
SMALL = dict(depths=(1, 2, 1, 1), dims=(6, 8, 12, 16))
V1 = dict(SMALL, ls_init_value=0.5)
V2 = dict(SMALL, ls_init_value=None, use_grn=True)
ARCHS = {
    'v1, linear': V1,
    'v1, 1x1 convs': dict(V1, conv_mlp=True),
    'v2, linear': V2,
    'v2, 1x1 convs': dict(V2, conv_mlp=True),
}


def stock_net(arch, seed=0):
    """Build timm's classifier; every parameter is random."""
    net = TimmConvNeXt(**arch, num_classes=5)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return net


def _renamed(net, depthwise, pointwise, grn_shape):
    """Rename timm's blocks; publishers keep pointwise weights as matrices."""
    renamed = {}
    for key, value in net.state_dict().items():
        part, *rest = key.split('.')
        if part == 'stem':
            renamed['.'.join(['downsample_layers', '0', *rest])] = value
        elif part == 'stages' and rest[1] == 'downsample':
            stage, _, *rest = rest
            renamed['.'.join(['downsample_layers', stage, *rest])] = value
        elif part == 'stages':
            stage, _, block, *rest = rest
            name = '.'.join(rest)
            if name.startswith('mlp.grn'):
                value = value.reshape(grn_shape)
            elif name.startswith('mlp.fc') and value.dim() == 4:
                value = value[:, :, 0, 0]
            for old, new in {
                'conv_dw': depthwise,
                'mlp.fc1': f'{pointwise}1',
                'mlp.fc2': f'{pointwise}2',
                'mlp.grn.weight': 'grn.gamma',
                'mlp.grn.bias': 'grn.beta',
            }.items():
                name = name.replace(old, new)
            renamed[f'stages.{stage}.{block}.{name}'] = value
        else:
            renamed[key] = value
    return renamed


def fair_layout(net):
    """Return a net's weights under the keys of the authors' own files."""
    renamed = _renamed(net, 'dwconv', 'pwconv', (1, 1, 1, -1))
    tail = {'head.norm.': 'norm.', 'head.fc.': 'head.'}
    for key in list(renamed):
        for old, new in tail.items():
            if key.startswith(old):
                renamed[key.replace(old, new)] = renamed.pop(key)
    return renamed


def mmpretrain_layout(net):
    """Return a net's weights under the keys of mmpretrain's classifiers."""
    renamed = _renamed(net, 'depthwise_conv', 'pointwise_conv', (-1,))
    state = {}
    for key, value in renamed.items():
        if key.startswith('head.norm.'):
            key = key.replace('head.norm.', 'backbone.norm3.')
        elif not key.startswith('head.'):
            key = f'backbone.{key}'
        state[key] = value
    return state


def timm_layout(net):
    """Return a net's weights under timm's keys."""
    return dict(net.state_dict())


# How publishers wrap each layout in a file.
FILES = {
    'fair': lambda net: dict(model=fair_layout(net)),
    'fair, with training state': lambda net: dict(
        model=fair_layout(net), optimizer=dict(state={}), epoch=3
    ),
    'timm': timm_layout,
    'timm, in state_dict': lambda net: dict(state_dict=timm_layout(net)),
    'timm, of several GPUs': lambda net: dict(
        state_dict={f'module.{k}': v for k, v in timm_layout(net).items()}
    ),
    'mmpretrain': lambda net: dict(
        meta=dict(epoch=300), state_dict=mmpretrain_layout(net)
    ),
    'mmpretrain, bare': mmpretrain_layout,
}
