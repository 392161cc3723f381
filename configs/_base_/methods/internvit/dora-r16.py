_base_ = './dora-r8.py'

method = dict(adapter=dict(rank=16))
