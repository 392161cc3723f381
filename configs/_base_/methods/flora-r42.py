# FLoRA with as many parameters as LoRA of rank 8 on ConvNeXt-V2-L, to within
# one per cent.
_base_ = './flora-r16.py'

method = dict(peft=dict(adapter=dict(rank=42)))
