# The stock backbone, every parameter of which trains: for a run that makes a
# base, from nothing.
method = dict(type='mmflora.ConvNeXt')
