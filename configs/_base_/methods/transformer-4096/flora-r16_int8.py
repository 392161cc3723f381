# The weights of the blocks' frozen linear layers are kept in 8 bits; adapters
# train over them. It takes `pip install 'mmflora[quantize]'`.
_base_ = './flora-r16.py'

method = dict(peft=dict(quantize=dict(bits=8)))
