_base_ = './flora-r16.py'

method = dict(adapter=dict(rank=8))
