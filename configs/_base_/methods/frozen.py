# The pre-trained backbone as it is: only its new output norms and what stands
# behind it train.
method = dict(type='mmflora.PEFTConvNeXt', peft=dict(adapter=None))
