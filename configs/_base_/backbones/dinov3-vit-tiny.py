# What the small twins of the recipes share: four narrow blocks with rotary
# embeddings, class and register tokens, narrow heads for six classes and few
# proposals, so that an iteration on a CPU takes a fraction of a second.
_base_ = '../models/convnextv2-atto.py'

# Written by the config of configs/full that trains on the source domain of the
# generated data.
base_weights = 'work_dirs/shapes_base_dinov3/base.pth'
weights_help = (
    'Train it with `python tools/train.py '
    'configs/full/mask-rcnn_dinov3-vit-tiny_full_shapes-source.py`.'
)

vit = dict(
    type='mmflora.TimmBackbone',
    model_name='vit_small_patch16_dinov3',
    embed_dim=64,
    depth=4,
    num_heads=4,
    out_indices=[3],
    init_cfg=dict(
        type='Pretrained', checkpoint=base_weights, prefix='backbone.'
    ),
)
