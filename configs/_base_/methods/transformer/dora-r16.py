# DoRA of the linear layers of all blocks.
method = dict(
    peft=dict(
        adapter=dict(type='DoRA', rank=16, alpha=16),
        targets=r'(.*\.)?blocks\..*',
    )
)
