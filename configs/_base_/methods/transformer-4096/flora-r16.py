# The same rule for width 4096: ViT-7B.
_base_ = '../transformer/flora-r16.py'

method = dict(peft=dict(adapter=dict(scale=0.04)))
