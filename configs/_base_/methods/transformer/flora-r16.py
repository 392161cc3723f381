# FLoRA of the linear layers of all blocks, for a transformer of width 1024.
#
# The paper searches the scale of each model: 0.04 for InternViT-6B, the only
# transformer in it. Here it is s = sqrt(r / 3d) for rank r and width d, which
# gives the paper's 0.04 for r = 16, d = 3200. At this scale AdamW moves a
# weight half as fast as with LoRA of the same rank and alpha = r. That is a
# rule of thumb from one model, no result: docs/recipes.md derives it.
method = dict(
    peft=dict(
        adapter=dict(type='FLoRA', rank=16, scale=0.07),
        targets=r'(.*\.)?blocks\..*',
    )
)
