_base_ = './lora-r8.py'

method = dict(peft=dict(adapter=dict(rank=16)))
