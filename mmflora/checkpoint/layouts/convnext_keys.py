"""Key layouts of published ConvNeXt weights, converted to timm's.

The ConvNeXt of mmflora is built of timm's blocks and has timm's keys.  FAIR's
own files and mmpretrain's name the same tensors otherwise:

=========== ========================== ==============================
part        FAIR                       mmpretrain (after ``backbone.``)
=========== ========================== ==============================
stem        ``downsample_layers.0.j``  ``downsample_layers.0.j``
downsample  ``downsample_layers.i.j``  ``downsample_layers.i.j``
depthwise   ``stages.i.j.dwconv``      ``stages.i.j.depthwise_conv``
pointwise   ``stages.i.j.pwconv1``     ``stages.i.j.pointwise_conv1``
GRN         ``grn.gamma`` (1, 1, 1, C) ``grn.gamma`` (C)
last norm   ``norm``                   ``norm3``
classifier  ``head``                   ``head.fc`` (beside ``backbone.``)
=========== ========================== ==============================

DINOv3's are in FAIR's layout, the last norm twice (``norm``, ``norms.3``), and
in Hugging Face's: ``stages.i.downsample_layers.j``, ``stages.i.layers.j`` with
``depthwise_conv``, ``layer_norm`` and ``pointwise_conv1``, ``layer_norm``.
"""

import re
from collections.abc import Mapping

from torch import Tensor

# timm's last norm and classifier; FAIR's and mmpretrain's become these.
# mmpretrain and mmflora itself keep norms of outputs beside the stages.
UNUSED_KEYS = (r'head\..*', r'norm[0-3]\.(weight|bias)')
# Applied in order to each key.
_RENAMES = (
    (r'^model\.stages\.', 'stages.'),
    (r'^stages\.0\.downsample_layers\.', 'stem.'),
    (r'^stages\.(\d+)\.downsample_layers\.', r'stages.\1.downsample.'),
    (r'^stages\.(\d+)\.layers\.', r'stages.\1.blocks.'),
    (r'^(stages\..*)\.layer_norm\.', r'\1.norm.'),
    (r'^layer_norm\.', 'head.norm.'),
    (r'^downsample_layers\.0\.', 'stem.'),
    (r'^downsample_layers\.(\d+)\.(\d+)\.', r'stages.\1.downsample.\2.'),
    (r'^stages\.(\d+)\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'\.(dwconv|depthwise_conv)\.', '.conv_dw.'),
    (r'\.(pwconv|pointwise_conv)(\d)\.', r'.mlp.fc\2.'),
    (r'\.grn\.gamma$', '.mlp.grn.weight'),
    (r'\.grn\.beta$', '.mlp.grn.bias'),
    (r'^norm\.', 'head.norm.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
)


def convnext_to_timm(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Rename a ConvNeXt's weights to timm's keys, whatever their layout.

    Weights of 1×1 convolutions and of linear layers differ in two dimensions
    of size one, and so do FAIR's GRN parameters; they are reshaped to the
    model's where the number of elements allows it.

    Args:
        state: Weights in FAIR's, timm's or mmpretrain's layout, for
            ConvNeXt or ConvNeXt-V2.
        shapes: The model's shapes by timm's keys.

    Returns:
        The weights under timm's keys.  A key that no layout knows stays as
        it is, for the caller to report.
    """
    if any(key.startswith('backbone.downsample') for key in state):
        state = {
            key.removeprefix('backbone.'): value
            for key, value in state.items()
        }
    renamed = dict(state)
    if any(
        re.match(r'((model\.)?stages\.\d+\.)?downsample_layers\.', key)
        for key in state
    ):
        renamed = {
            _rename(key): value
            for key, value in state.items()
            if not key.startswith('norms.')
        }
        if 'norm0.weight' not in renamed:
            # A classifier of mmpretrain; a dense backbone norms every output.
            for name in ('weight', 'bias'):
                if f'norm3.{name}' in renamed:
                    renamed[f'head.norm.{name}'] = renamed.pop(f'norm3.{name}')
    return {
        key: _fit(value, shapes.get(key)) for key, value in renamed.items()
    }


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _fit(value: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """Add or drop dimensions of size one."""
    if shape is None or tuple(value.shape) == tuple(shape):
        return value
    squeezed = [size for size in value.shape if size != 1]
    if squeezed == [size for size in shape if size != 1]:
        return value.reshape(shape)
    return value
