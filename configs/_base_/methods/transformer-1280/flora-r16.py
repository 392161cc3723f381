# The same rule for width 1280: ViT-H and ViT-H+.
_base_ = '../transformer/flora-r16.py'

method = dict(peft=dict(adapter=dict(scale=0.06)))
