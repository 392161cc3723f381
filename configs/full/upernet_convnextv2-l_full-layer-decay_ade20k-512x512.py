# Learning rates that fall towards the input, in timm's groups, as the authors
# of ConvNeXt and the toolkits fine-tune it. The paper's recipe says nothing of
# it, so that the rows of its tables are without.
# 0.98 per block of ConvNeXt-V2-L comes to 0.47 at the stem; MMDetection's 0.95
# per group of blocks to 0.51.
_base_ = './upernet_convnextv2-l_full_ade20k-512x512.py'

optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.98))
