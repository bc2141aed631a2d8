"""Tiny random networks, one of every family that Cutaway knows by name, and an input for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

import cutaway.network as cw

VOCAB, D_MODEL, D_FF, N_BLOCKS, N_HEADS, CONTEXT = 64, 32, 48, 3, 4, 64

WIDTH = dict(hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=N_BLOCKS, num_attention_heads=N_HEADS)
TEXT = dict(**WIDTH, vocab_size=VOCAB, max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=None,
             pad_token_id=0)
GROUPED = dict(**TEXT, num_key_value_heads=2)
IMAGE = dict(**WIDTH, image_size=8, patch_size=4)


class CNN(nn.Module):
    """A convolutional classifier as people write them, with activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.conv2(x))
        return self.head(x.mean((2, 3)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 16), nn.GELU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 4))


def sentence() -> nn.Module:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    with TemporaryDirectory() as folder:
        hf.BertModel(hf.BertConfig(**TEXT)).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return SentenceTransformer(modules=[Transformer(folder), Pooling(D_MODEL)], device="cpu")


def tokenizer(words: int = VOCAB) -> Any:
    """A tokenizer of whole words: `w5 w9` is [5, 9]; 0 is padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    vocabulary = {"<pad>": 0, **{f"w{i}": i for i in range(1, words)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="w1")


BUILD: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(
        n_embd=D_MODEL, n_layer=N_BLOCKS, n_head=N_HEADS, vocab_size=VOCAB, n_positions=CONTEXT, bos_token_id=None,
        eos_token_id=None, pad_token_id=0)),
    "gpt-neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**TEXT)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(
        hidden_size=D_MODEL, ffn_dim=D_FF, num_hidden_layers=N_BLOCKS, num_attention_heads=N_HEADS, vocab_size=VOCAB,
        max_position_embeddings=CONTEXT, word_embed_proj_dim=D_MODEL, bos_token_id=None, eos_token_id=None,
        pad_token_id=0)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=6)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=16)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=6)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=6)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**GROUPED)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, num_local_experts=4)),
    "qwen2-moe": lambda: hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, mlp_only_layers=[0])),
    "qwen3-moe": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        **GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**TEXT)),
    "bert-encoder": lambda: hf.BertModel(hf.BertConfig(**TEXT)),
    "sentence": sentence,
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE, num_labels=5)),
    "clip-vision": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**IMAGE)),
    "resnet": lambda: hf.ResNetForImageClassification(hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=5)),
    "cnn": CNN,
    "mlp": mlp,
}

CAUSAL = ["gpt2", "gpt-neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mixtral",
          "qwen2-moe", "qwen3-moe"]
EXPERTS = ["mixtral", "qwen2-moe", "qwen3-moe"]
NAMED = [name for name in BUILD if name not in ("cnn", "mlp")]
ATTENTION = [name for name in NAMED if name != "resnet"]
MATRIX = ["gpt2", "opt", "llama", "gemma2", "mixtral", "bert", "vit", "resnet", "sentence", "cnn", "mlp"]


def module(name: str, seed: int = 0) -> nn.Module:
    """A new network of a family, with weights large enough that every part of it matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = BUILD[name]().eval()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
    return built


@cache
def network(name: str) -> cw.Network:
    """One network of a family, shared by all tests: they must leave it as it is."""
    return cw.open(module(name), tokenizer() if name in CAUSAL else None)


def example(name: str, rows: int = 2, tokens: int = 10, seed: int = 0) -> Tensor:
    """A random input of a family: token ids [rows, tokens] without padding, or pixels, or numbers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"vit": (3, 8, 8), "clip-vision": (3, 8, 8), "resnet": (3, 32, 32), "cnn": (3, 8, 8), "mlp": (10,)}
    if name in shapes:
        return torch.randn(rows, *shapes[name], generator=generator)
    return torch.randint(2, VOCAB, (rows, tokens), generator=generator)
