# The same rule for width 768, that of most of Swin-L's blocks.
_base_ = '../transformer/flora-r16.py'

method = dict(peft=dict(adapter=dict(scale=0.08)))
