# LoRA-SB: LoRA-XS around the first step of full fine-tuning.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='LoRASB', rank=8), calibration=dict(batches=8)
    ),
)
