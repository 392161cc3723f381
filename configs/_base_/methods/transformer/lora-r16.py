# LoRA of the linear layers of all blocks.
method = dict(
    peft=dict(
        adapter=dict(type='LoRA', rank=16, alpha=16),
        targets=r'(.*\.)?blocks\..*',
    )
)
