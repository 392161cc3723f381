# VPT-shallow: 50 prompt tokens, which the first block adds.
_base_ = './vpt-deep.py'

method = dict(peft=dict(adapter=dict(form='shallow')))
