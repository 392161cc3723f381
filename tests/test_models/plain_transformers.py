"""Small plain transformers of timm, one of each family."""

import timm

SMALL = dict(embed_dim=16, depth=3, num_heads=2)
# Name, arguments that make it small.
NETS = {
    'registers': (
        'vit_small_patch14_reg4_dinov2',
        dict(SMALL, img_size=56),
    ),
    'rotary, registers': (
        'vit_small_patch16_dinov3',
        dict(SMALL, img_size=64),
    ),
    'rotary, biases apart': (
        'vit_small_patch16_dinov3_qkvb',
        dict(SMALL, img_size=64),
    ),
    'rotary, EVA-02': (
        'eva02_tiny_patch14_224',
        dict(SMALL, img_size=56),
    ),
    'SAM': (
        'samvit_base_patch16',
        dict(SMALL, img_size=64, window_size=3, global_attn_indexes=(2,)),
    ),
}


def timms_own(name, options, any_size=True):
    """Build the same model by timm alone."""
    if any_size and not name.startswith('samvit'):
        options = dict(options, dynamic_img_size=True, dynamic_img_pad=True)
    return timm.create_model(name, **options)
