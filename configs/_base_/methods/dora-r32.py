_base_ = './dora-r8.py'

method = dict(peft=dict(adapter=dict(rank=32)))
