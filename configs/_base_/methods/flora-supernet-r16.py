# A supernet of FLoRAs: each iteration draws a rank for each layer, of which 0
# is the frozen layer. `tools/search_adapters.py` then searches the best ranks
# within a budget.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(
            type='MatryoshkaFLoRA',
            rank=16,
            kernel_rank=2,
            scale=4.0,
            sampled=True,
            per_layer=True,
            ranks=[0, 2, 4, 8, 16],
        )
    ),
)
