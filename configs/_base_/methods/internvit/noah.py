# NOAH's supernet: in each block prompts, LoRA of the attention's input matrix
# and a bottleneck behind the MLP, each of a width that every iteration draws.
# `tools/search_adapters.py` then searches the best widths within a budget.
#
# The widths are the release's without its 100, and 0: there a kind of module
# acts in the first 3, 6, 9 or 12 of 12 blocks, here in any of them.
widths = [0, 5, 10, 50]

method = dict(
    type='mmflora.PEFTInternViT',
    peft=dict(
        adapter=dict(
            type='DyLoRA', rank=50, ranks=widths, per_layer=True, scale=1.0
        ),
        targets={
            r'(.*\.)?blocks\.\d+': dict(
                type='VPT', tokens=50, counts=widths, patch_size=14
            ),
            r'.*\.attn\.qkv': {},
            r'.*\.mlp': dict(
                type='Pfeiffer', width=50, widths=widths, activation='gelu'
            ),
        },
    ),
)
