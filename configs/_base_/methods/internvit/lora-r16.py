_base_ = './lora-r8.py'

method = dict(adapter=dict(rank=16))
