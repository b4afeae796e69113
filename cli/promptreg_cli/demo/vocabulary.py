"""The demo's tokenizer: one token a character, as a plain ``tokenizer.json``."""

import string
from typing import Any

__all__ = ["make_tokenizer"]

_PAD, _BOS, _EOS, _UNKNOWN = _SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_CHARACTERS = string.ascii_letters + string.digits + " :->!?.,'"


def make_tokenizer() -> Any:
    """Return a fast tokenizer with a token for each character, and ``<s>`` put in front."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate((*_SPECIAL, *_CHARACTERS))}
    # Byte pairs without a single merge are characters, and every runtime knows this model.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=_UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, vocabulary[_BOS])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        padding_side="left",  # a batch that is generated from must end in its last letters
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
