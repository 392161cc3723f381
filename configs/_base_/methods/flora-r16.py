# FLoRA as the paper sets it for ConvNeXt-V2-L: a Tucker update of every
# convolution and linear layer, of rank 16 in the channel modes and 2 in the
# spatial ones.
#
# A method says which backbone class to build and with what beyond the plain
# one's arguments; a config takes it over by
#   model = dict(backbone=_base_.method)
# so that another method is another `_base_` line.
method = dict(
    type='mmflora.FLoRAConvNeXt',
    peft=dict(adapter=dict(type='FLoRA', rank=16, kernel_rank=2, scale=4.0)),
)
