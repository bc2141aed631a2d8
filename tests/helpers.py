"""Tiny tokenizers and networks that read text, for tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers as hf

import cutaway.network as cw

CONTEXT = 32
WORDS = "naïve 日本語 😀"
PLAIN = "".join(f"def f{i}(self, x):\n    return self.x[{i}] + x  # {WORDS[:i % 12]}\n\n" for i in range(300))


@cache
def tiny_tokenizer(words: int = 40, **special: str) -> Any:
    """A byte-level tokenizer of 256 bytes, `words` merges and special tokens such as bos_token="<s>"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    special = special or {"bos_token": "<s>", "pad_token": "<pad>"}
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.train_from_iterator([PLAIN], trainers.BpeTrainer(
        vocab_size=len(special) + 256 + words, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special.values()), show_progress=False))
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **special)


def tiny_llama(tokenizer: Any = None, context: int = CONTEXT) -> cw.Network:
    """A random Llama of two blocks with a tokenizer that has a begin token."""
    torch.manual_seed(0)
    tokenizer = tokenizer or tiny_tokenizer()
    return cw.open(hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=context, bos_token_id=None, eos_token_id=None)), tokenizer)


def tiny_bert(model: str = "BertForMaskedLM", context: int = CONTEXT) -> cw.Network:
    """A random BERT of two blocks with a tokenizer that has class, separator and mask tokens."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", pad_token="[PAD]")
    return cw.open(getattr(hf, model)(hf.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=context)), tokenizer)


def tiny_vit(n_classes: int = 3) -> cw.Network:
    """A random ViT for images of 8 x 8 pixels, without an image processor."""
    torch.manual_seed(0)
    return cw.open(hf.ViTForImageClassification(hf.ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4,
        num_labels=n_classes)))
