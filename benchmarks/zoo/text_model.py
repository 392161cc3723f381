"""A small BERT in Hugging Face's layout, in place of one to download."""

import string
from pathlib import Path

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


def write_text_model(folder: Path, width: int = 768) -> str:
    """Write a BERT of two layers with random weights; return its folder.

    Its tokens are letters, so that every word has some.

    Args:
        folder: Where to write it.
        width: Its features, as many as those of the model in its place.
    """
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = string.ascii_lowercase + string.digits
    words = [*SPECIAL, *'.,?!', *letters, *(f'##{x}' for x in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / 'vocab.txt'
    vocabulary.write_text('\n'.join(words))
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)
