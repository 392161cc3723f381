# LoRA on matrices; depthwise kernels train in full. On a depthwise kernel
# LoRA's product has full rank already at rank 1, with many more parameters.
_base_ = './lora-r8.py'

method = dict(peft=dict(targets={r'.*\.conv_dw': dict(type='Full'), '.*': {}}))
