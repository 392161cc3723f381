"""The methods that stand for each mechanism, and what they cost beside."""

from typing import NamedTuple

VIT = 'vit_tiny_patch16_224'
CONVNEXT = 'convnext_tiny'
SIZES = {VIT: 320, CONVNEXT: 224}
"""The models by default, and the sides of their images."""

FLOOR = 'frozen'
FLORA = "dict(type='FLoRA', rank=16)"


class Row(NamedTuple):
    """A method of a mechanism.

    Attributes:
        mechanism: What adapts the model.
        method: The setting ``adapter``.
        models: Those that have a place for it.
    """

    mechanism: str
    method: str
    models: tuple[str, ...] = (VIT, CONVNEXT)


ROWS = (
    Row('factors', FLORA),
    Row('factors', "dict(type='LoRA', rank=16)"),
    Row('factors', "dict(type='DoRA', rank=16)"),
    Row('base', "dict(type='Full')"),
    Row('calibration', "dict(type='FLoRA', rank=16, start='gradient')"),
    Row('calibration', "dict(type='CorDA', rank=16)"),
    Row('shared', "dict(type='FacT', rank=16)"),
    Row('shared', "dict(type='BlockLoRA', rank=16, blocks=4)"),
    Row('shared', "dict(type='SuperLoRA', rank=16, groups=4)"),
    Row('shared', "dict(type='QueryableLoRA', rank=16)"),
    Row('sparse', "dict(type='SaRA', density=0.1)"),
    Row('sparse', "dict(type='SPT', rank=16, density=0.05)"),
    Row('sparse', "dict(type='S2FT', density=0.1)"),
    Row('sparse', "dict(type='SNELL', rank=16, sparsity=0.9)"),
    Row('nested ranks', "dict(type='MatryoshkaFLoRA', rank=16)"),
    Row('nested ranks', "dict(type='MatryoshkaLoRA', rank=16)"),
    Row('nested ranks', "dict(type='DyLoRA', rank=16)"),
    Row('blocks', "dict(type='AdaptFormer', width=64)"),
    Row('blocks', "dict(type='MoSA', width=64)", (VIT,)),
    Row('blocks', "dict(type='Houlsby', width=64)"),
    Row('blocks', "dict(type='Mona', width=64)"),
    Row('blocks', "dict(type='LoRand')"),
    Row('blocks', "dict(type='ConvAdapter')", (CONVNEXT,)),
    Row('blocks', "dict(type='RepAdapter', rank=8)"),
    Row('tokens', "dict(type='VPT', tokens=50, form='shallow')", (VIT,)),
    Row('tokens', "dict(type='VPT', tokens=50, form='deep')", (VIT,)),
    Row('tokens', "dict(type='Rein', tokens=100, rank=16)", (VIT,)),
    Row('ladder', "dict(type='Ladder')", (CONVNEXT,)),
)
"""What is measured by default."""

CALIBRATED = (
    Row('', "dict(type='FLoRA', rank=16, start='gradient')"),
    # The largest moments of a ConvNeXt, 3072 x 3072, take minutes.
    Row('', "dict(type='CorDA', rank=16)", (VIT,)),
    Row('', "dict(type='LoRASB', rank=16)"),
    Row('', "dict(type='SPT', rank=16, density=0.05)"),
    Row('', "dict(type='GPS')"),
)
"""Methods whose start sends batches through the frozen model."""

HOOKED = {
    "dict(type='SaRAHook')": "dict(type='SaRA', density=0.1)",
    "dict(type='SNELLAHook')": "dict(type='SNELLA', rank=16)",
    "dict(type='SampledRankHook')": "dict(type='DyLoRA', rank=16)",
    "dict(type='RankAnnealingHook', ranks=[8])": "dict(type='LoRA', rank=16)",
    "dict(type='AdaLoRAHook')": (
        "dict(type='HFPEFT', peft_type='ADALORA', init_r=12, target_r=8, "
        'tinit=1, tfinal=1, deltaT=1)'
    ),
}
"""Hooks that act in each step, and the method that needs them."""


def methods_of(model: str, rows: tuple[Row, ...] = ROWS) -> dict[str, str]:
    """Return the methods of a model, and the mechanism of each.

    Any other model gets what both have a place for.
    """
    wanted = {model} if model in SIZES else set(SIZES)
    return {
        row.method: row.mechanism for row in rows if wanted <= {*row.models}
    }
