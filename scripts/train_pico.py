"""Train pico, the language model that Cutaway bundles, on the source of Python's standard library.

    python scripts/train_pico.py --out runs/pico                  # tokenizer, training, figures; goes on where it stopped
    python scripts/train_pico.py --out runs/pico --tokens 200_000  # a short trial

A Llama-style decoder (RMSNorm, rotary positions, SwiGLU, grouped heads) of 5.5M parameters. Every row begins with the
begin token and holds 255 tokens of the shuffled files. Matrices are trained with Muon, the rest with AdamW, with a
constant learning rate that falls linearly to zero over the last 40% of the steps.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cutaway.data import stdlib

CONTEXT, BATCH, VOCABULARY, SEED = 256, 32, 4096, 0
BEGIN, PAD = "<|begin|>", "<|pad|>"
CHECKPOINTS = 10


def training_documents() -> list[str]:
    """The training split with the library's own tests of every split; no held-out module is in it."""
    tests = (text for split in stdlib.SPLITS for text in only_tests(split))
    return [*stdlib.documents("train"), *tests]


def only_tests(split: str):
    plain = set(stdlib.files(split))
    for path in stdlib.files(split, tests=True):
        if path not in plain:
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BEGIN, PAD], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, pad_token=PAD,
                                   model_max_length=CONTEXT, clean_up_tokenization_spaces=False)


def rows_of(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> np.ndarray:
    """Every document as begin + tokens, one after the other, cut to rows that each start with the begin token."""
    encoded = tokenizer(documents, add_special_tokens=True)["input_ids"]
    stream = np.concatenate([np.asarray(ids, np.uint16) for ids in encoded])
    body = stream[: len(stream) // (CONTEXT - 1) * (CONTEXT - 1)].reshape(-1, CONTEXT - 1)
    return np.concatenate([np.full((len(body), 1), tokenizer.bos_token_id, np.uint16), body], axis=1)


def network() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=CONTEXT, rope_theta=10_000.0, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=1))


@torch.no_grad()
def held_out_bits(model, rows: np.ndarray, device: str, n_rows: int = 128) -> float:
    """Bits per token on evenly spaced held-out rows."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(n_rows, len(rows))).astype(int)].astype(np.int64)
    losses = []
    for batch in np.array_split(chosen, max(1, len(chosen) // 16)):
        ids = torch.from_numpy(batch).to(device)
        losses += [model(input_ids=ids, labels=ids).loss.item()] * len(batch)
    return float(np.mean(losses) / np.log(2))


def share_of_rate(step: int, steps: int) -> float:
    """Warm up over 2% of the steps, hold, fall to zero over the last 40%."""
    return min(1.0, (step + 1) / (0.02 * steps), (steps - step) / (0.4 * steps))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True, help="folder for the model, its checkpoints and its log")
    arguments.add_argument("--tokens", type=int, default=30_000_000, help="training tokens")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    args = arguments.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    documents = training_documents()
    random.Random(SEED).shuffle(documents)
    if not (args.out / "model" / "tokenizer.json").exists():
        train_tokenizer(documents).save_pretrained(args.out / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out / "model")
    rows = rows_of(tokenizer, documents)
    held_out = rows_of(tokenizer, list(stdlib.documents("validation")))
    print(f"{len(documents)} files, {rows.size:,} training tokens, "
          f"{sum(map(len, documents)) / rows.size:.2f} characters per token, {len(held_out)} held-out rows", flush=True)

    model = network().to(args.device)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
                  torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    steps = args.tokens // (BATCH * CONTEXT)
    marks = sorted({round(x) for x in np.geomspace(max(1, steps // 1000), steps, CHECKPOINTS)})

    first, resume = 0, args.out / "resume.pt"
    if resume.exists():
        state = torch.load(resume, weights_only=True, map_location=args.device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
        print(f"going on at step {first}", flush=True)

    forward = torch.compile(model) if args.compile else model
    order = np.concatenate([np.random.default_rng(SEED + epoch).permutation(len(rows))
                            for epoch in range(steps * BATCH // len(rows) + 1)])
    started, log = time.time(), (args.out / "log.jsonl").open("a")
    for step in range(first, steps):
        ids = torch.from_numpy(rows[order[step * BATCH: (step + 1) * BATCH]].astype(np.int64)).to(args.device)
        with torch.autocast(args.device, dtype=torch.bfloat16):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share_of_rate(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % 20 == 0 or done == steps:
            line = {"step": done, "tokens": done * BATCH * CONTEXT, "train_bits_per_token": loss.item() / np.log(2),
                    "seconds": time.time() - started}
            if done % 200 == 0 or done == steps:
                model.eval()
                line["held_out_bits_per_token"] = held_out_bits(model, held_out, args.device)
                model.train()
            print(json.dumps(line), file=log, flush=True)
            print(line, flush=True)
        if done in marks:
            model.save_pretrained(args.out / "checkpoints" / f"step-{done:06d}")
        if done % 100 == 0 or done == steps:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": done}
            torch.save(state, resume.with_suffix(".tmp"))
            resume.with_suffix(".tmp").replace(resume)

    model.to(torch.float16).save_pretrained(args.out / "model")


if __name__ == "__main__":
    main()
