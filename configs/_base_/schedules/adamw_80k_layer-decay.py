# As the authors of InternViT fine-tune all of it: learning rates fall by 5 %
# from block to block towards the input.
_base_ = './adamw_80k.py'

optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.95))
