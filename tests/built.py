"""Transformers written by hand, so that the circuit of what they do is known."""

from __future__ import annotations

import torch
import transformers as hf

import cutaway.network as cw

VOCAB, CONTEXT, WIDTH, HEAD = 10, 16, 64, 32
TOKEN, PLACE, BEFORE, ANSWER = 0, VOCAB, VOCAB + CONTEXT, 2 * VOCAB + CONTEXT   # where each fact begins in the stream
IDLE = 3 * VOCAB + CONTEXT                                                      # what is left for parts that do nothing of use
PREVIOUS, INDUCTION = "blocks.0.attn.heads:1", "blocks.1.attn.heads:0"
CIRCUIT = {f"embed -> {'blocks.0.attn.v:1'}", f"{PREVIOUS} -> blocks.1.attn.k:0", "embed -> blocks.1.attn.q:0",
           "embed -> blocks.1.attn.v:0", f"{INDUCTION} -> logits"}


def induction_gpt2() -> cw.Network:
    """A GPT-2 of two blocks of two heads, in which one head copies the token before and one finds what followed last time.

    The stream holds one-hot facts: the token, its position, the token before, the answer. Head 1 of block 0 attends to
    the position before and writes its token under "the token before"; head 0 of block 1 attends to where the token before is
    this token, and writes that place's token under "the answer", which the logits read. The other heads and the MLPs write
    at random, into entries that nobody reads.
    """
    config = hf.GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_layer=2, n_head=2, n_inner=48,
                           tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, activation_function="relu")
    generator = torch.Generator().manual_seed(0)
    model = hf.GPT2LMHeadModel(config).eval()
    idle = slice(IDLE, WIDTH)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        base = model.transformer
        base.wte.weight[:, TOKEN: TOKEN + VOCAB] = torch.eye(VOCAB)
        base.wpe.weight[:, PLACE: PLACE + CONTEXT] = torch.eye(CONTEXT)
        for block in base.h:
            for head in range(2):  # heads that attend evenly and write where nobody reads
                block.attn.c_attn.weight[:, _columns("v", head)] = 0.1 * torch.randn(WIDTH, HEAD, generator=generator)
                block.attn.c_proj.weight[_rows(head), idle] = 0.02 * torch.randn(HEAD, WIDTH - IDLE, generator=generator)
            block.mlp.c_fc.weight.copy_(0.1 * torch.randn(WIDTH, 48, generator=generator))
            block.mlp.c_proj.weight[:, idle] = 0.02 * torch.randn(48, WIDTH - IDLE, generator=generator)
        # Position t looks for position t - 1; a large product makes the softmax sure.
        earlier = torch.zeros(WIDTH, HEAD)
        earlier[PLACE + 1: PLACE + CONTEXT, : CONTEXT - 1] = torch.eye(CONTEXT - 1)
        _head(base.h[0], 1, 30 * earlier, _reading(PLACE, CONTEXT), _reading(TOKEN, VOCAB), BEFORE, VOCAB)
        _head(base.h[1], 0, 30 * _reading(TOKEN, VOCAB), _reading(BEFORE, VOCAB), _reading(TOKEN, VOCAB), ANSWER, VOCAB)
        model.lm_head.weight[:, ANSWER: ANSWER + VOCAB] = torch.eye(VOCAB)
    return cw.open(model)


def _columns(part: str, head: int) -> slice:
    start = "qkv".index(part) * WIDTH + head * HEAD
    return slice(start, start + HEAD)


def _rows(head: int) -> slice:
    return slice(head * HEAD, (head + 1) * HEAD)


def _reading(start: int, size: int) -> torch.Tensor:
    """The map from the stream to a head's first entries that reads a fact."""
    reads = torch.zeros(WIDTH, HEAD)
    reads[start: start + size, :size] = torch.eye(size)
    return reads


def _head(block: torch.nn.Module, head: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, write: int, size: int) -> None:
    """Give a head its maps; it writes its first `size` entries at `write`."""
    for part, weight in (("q", q), ("k", k), ("v", v)):
        block.attn.c_attn.weight[:, _columns(part, head)] = weight
    block.attn.c_proj.weight[_rows(head)] = 0.0
    block.attn.c_proj.weight[_rows(head)][:size, write: write + size] = torch.eye(size)


LOOKUP = {"embed -> blocks.1.mlp", "blocks.1.mlp -> logits"}
SUCCESSOR = torch.tensor([3, 7, 0, 9, 1, 8, 2, 5, 6, 4])   # the token that follows each token


def lookup_llama() -> cw.Network:
    """A Llama of two blocks whose second MLP knows which token follows each token; all else writes where nobody reads.

    Neuron i of that MLP fires at token i, by its gate and its value alike, and writes that token's successor.
    """
    config = hf.LlamaConfig(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2,
                            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT,
                            tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(1)
    model = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, TOKEN: TOKEN + VOCAB] = torch.eye(VOCAB)
        for block in model.model.layers:
            for written in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
                written[:IDLE] = 0
        mlp = model.model.layers[1].mlp
        for weight, size in ((mlp.gate_proj.weight, 3.0), (mlp.up_proj.weight, 1.0)):
            weight[:VOCAB] = 0
            weight[:VOCAB, TOKEN: TOKEN + VOCAB] = size * torch.eye(VOCAB)
        mlp.down_proj.weight[ANSWER + SUCCESSOR, torch.arange(VOCAB)] = 0.02
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, ANSWER: ANSWER + VOCAB] = torch.eye(VOCAB)
    return cw.open(model)
