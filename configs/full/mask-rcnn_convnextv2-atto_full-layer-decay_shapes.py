# Learning rates that fall towards the input, in timm's groups, as the authors
# of ConvNeXt and the toolkits fine-tune it. The paper's recipe says nothing of
# it, so that the rows of its tables are without.
_base_ = './mask-rcnn_convnextv2-atto_full_shapes.py'

optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.9))
