# Ladder side tuning: a network of an eighth of the width beside the backbone.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='Ladder', reduction=8)),
)
