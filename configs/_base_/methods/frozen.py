# The frozen pre-trained backbone: only its new output norms and the modules
# after it train.
method = dict(type='mmflora.PEFTConvNeXt', peft=dict(adapter=None))
