# The stock backbone with all its parameters trained: for a run that makes a
# base from scratch.
method = dict(type='mmflora.ConvNeXt')
