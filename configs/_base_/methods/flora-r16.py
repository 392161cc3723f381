# FLoRA as the paper sets it for ConvNeXt-V2-L: a Tucker update of every
# convolution and linear layer, of rank 16 in the channel modes and 2 in the
# spatial ones.
#
# A file of methods names the backbone class and the arguments that it takes
# beyond those of the plain one. A config uses it by
#   model = dict(backbone=_base_.method)
# To change the method, change the `_base_` line.
method = dict(
    type='mmflora.FLoRAConvNeXt',
    peft=dict(adapter=dict(type='FLoRA', rank=16, kernel_rank=2, scale=4.0)),
)
