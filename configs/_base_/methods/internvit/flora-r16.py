# FLoRA as the paper sets it for InternViT-6B: an update of the linear layers
# of all blocks (qkv, proj, fc1, fc2), the backbone's own `default_targets`.
method = dict(
    type='mmflora.FLoRAInternViT',
    peft=dict(adapter=dict(type='FLoRA', rank=16, scale=0.04)),
)
