"""Predicts with stock OpenMMLab, in a process that cannot import mmflora.

Usage: python stock_inference.py TOOLKIT CONFIG CHECKPOINT PICTURE OUT.
Writes predictions, the classes of all modules, the keys, the meta of the
data and the multiplications of a forward pass.
"""

import sys


class NoMmflora:
    """Makes every import of mmflora fail."""

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmflora':
            raise ImportError('mmflora is not installed here')


def init(toolkit, config, checkpoint):
    if toolkit == 'mmseg':
        from mmseg.apis import init_model

        return init_model(config, checkpoint, device='cpu')
    from mmdet.apis import init_detector

    return init_detector(config, checkpoint, device='cpu')


def predict(toolkit, model, picture):
    if toolkit == 'mmseg':
        from mmseg.apis import inference_model

        return {'logits': inference_model(model, picture).seg_logits.data}
    from mmdet.apis import inference_detector

    found = inference_detector(model, picture).pred_instances
    return {
        name: getattr(value, 'tensor', value) for name, value in found.items()
    }


def count(model):
    """Return the multiplications of the backbone for one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.backbone(torch.zeros(1, 3, 64, 64))
    return counter.get_total_flops()


def describe(model):
    return dict(
        classes=[
            f'{type(module).__module__}.{type(module).__name__}'
            for module in model.modules()
        ],
        keys=list(model.state_dict()),
        flops=count(model),
        hooks=sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in model.modules()
        ),
    )


def main():
    sys.meta_path.insert(0, NoMmflora())
    import torch

    toolkit, config, checkpoint, picture, out = sys.argv[1:]
    loaded = init(toolkit, config, checkpoint)
    unloaded = init(toolkit, config, None)
    result = describe(loaded)
    stock = describe(unloaded)
    result['predictions'] = predict(toolkit, loaded, picture)
    result['meta'] = loaded.dataset_meta
    result['mmflora'] = [
        name for name in sys.modules if name.split('.')[0] == 'mmflora'
    ]
    torch.save(dict(result=result, stock=stock), out)


if __name__ == '__main__':
    main()
