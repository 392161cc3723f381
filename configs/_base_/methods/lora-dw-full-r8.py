# LoRA on matrices, and the depthwise kernels trained in full: on one of those,
# LoRA's product has full rank from rank 1 on, at many times the parameters.
_base_ = './lora-r8.py'

method = dict(peft=dict(targets={r'.*\.conv_dw': dict(type='Full'), '.*': {}}))
