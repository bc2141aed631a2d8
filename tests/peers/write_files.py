"""Lets the libraries themselves write tiny dictionaries, with their own codes and reconstructions of given inputs.

    PYTHON tests/peers/write_files.py [folder]

PYTHON is that of an environment with sae-lens, eai-sparsify, dictionary-learning, circuit-tracer and OpenAI's
sparse_autoencoder, such as the one that `benchmarks/formats.py` makes. SCALE in the environment makes all sizes larger.
Nothing of Cutaway is used here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SCALE = int(os.environ.get("SCALE", "1"))
D, WIDTH, D_OUT, N, K = (SCALE * size for size in (16, 64, 12, 8, 4))
LAYERS = 3                                        # of a cross-layer transcoder, whose tensors have an axis of layers first
PACKAGES = ("sae-lens", "eai-sparsify", "dictionary-learning", "circuit-tracer", "sparse-autoencoder", "torch", "safetensors")
Written = tuple[Tensor, Tensor, Tensor]           # inputs [n, d], codes [n, width], reconstructions [n, d_out]
CASES: dict[str, Callable[[Path], Written]] = {}


def case(name: str, *given: Any, **settings: Any) -> Callable[[Callable[..., Written]], Callable[..., Written]]:
    """Register a writer under the name of the folder that it fills."""
    def register(writer: Callable[..., Written]) -> Callable[..., Written]:
        CASES[name] = lambda folder: writer(folder, *given, **settings)
        return writer
    return register


def inputs(scale: float = 1.0) -> Tensor:
    """Activations with a mean that is not zero, so that it matters whether a bias is subtracted."""
    return scale * (torch.randn(N, D) + torch.linspace(-1, 2, D))


def fill(module: nn.Module) -> None:
    """Every parameter random, so that each of them matters; thresholds positive, and those kept as logarithms not."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(0, 0.3)
            if "threshold" in name and "log" not in name:
                p.abs_()


# --- SAELens ----------------------------------------------------------------------------------------------------------

METADATA = {"hook_name": "blocks.3.hook_resid_post", "model_name": "tiny", "dataset_path": "text", "context_size": 32,
            "prepend_bos": True}


def sae(architecture: str, **settings: Any) -> Any:
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata
    made, configured = get_sae_class(architecture)
    one = made(configured(d_in=D, d_sae=WIDTH, metadata=SAEMetadata(**METADATA), **settings))
    fill(one)
    return one


@case("saelens/standard", "standard")
@case("saelens/no_subtraction", "standard", apply_b_dec_to_input=False)
@case("saelens/layer_norm", "standard", normalize_activations="layer_norm")
@case("saelens/constant_norm", "topk", k=K, normalize_activations="constant_norm_rescale")
@case("saelens/topk", "topk", k=K)
@case("saelens/topk_by_norm", "topk", k=K, rescale_acts_by_decoder_norm=True)
@case("saelens/abstopk", "abstopk", k=K)
@case("saelens/jumprelu", "jumprelu")
@case("saelens/gated", "gated", apply_b_dec_to_input=True)
@case("saelens/matching_pursuit", "matching_pursuit", max_iterations=2 * K, residual_threshold=0.5)
@case("saelens/matching_pursuit_fixed", "matching_pursuit", max_iterations=K, residual_threshold=0.0,
      stop_on_duplicate_support=False)
@case("saelens/transcoder", "transcoder", d_out=D_OUT, apply_b_dec_to_input=False)
@case("saelens/skip_transcoder", "skip_transcoder", d_out=D_OUT, apply_b_dec_to_input=False)
@case("saelens/jumprelu_transcoder", "jumprelu_transcoder", d_out=D_OUT, apply_b_dec_to_input=False)
@case("saelens/jumprelu_skip_transcoder", "jumprelu_skip_transcoder", d_out=D_OUT, apply_b_dec_to_input=False)
def saelens(folder: Path, architecture: str, **settings: Any) -> Written:
    one, x = sae(architecture, **settings), inputs()
    if architecture == "matching_pursuit":   # what is left only shrinks where rows have norm 1, as training keeps them
        one.W_dec /= one.W_dec.norm(dim=1, keepdim=True)
    if "transcoder" in architecture:
        one.cfg.metadata.hook_name, one.cfg.metadata.hook_name_out = "blocks.3.hook_resid_pre", "blocks.3.hook_mlp_out"
    one.save_model(folder)
    return x, one.encode(x), one(x)


@case("saelens/trained_standard", "standard")
@case("saelens/trained_gated", "gated")
@case("saelens/trained_topk", "topk", k=K)
@case("saelens/trained_abstopk", "abstopk", k=K)
@case("saelens/trained_jumprelu", "jumprelu")
@case("saelens/trained_matching_pursuit", "matching_pursuit", max_iterations=2 * K)
@case("saelens/trained_batchtopk", "batchtopk", k=float(K))
@case("saelens/trained_matryoshka", "matryoshka_batchtopk", k=float(K), matryoshka_widths=[WIDTH // 4, WIDTH // 2, WIDTH])
def saelens_trained(folder: Path, architecture: str, **settings: Any) -> Written:
    """What a training leaves for inference, read by the library itself."""
    from sae_lens import SAE
    one, x = training(architecture, **settings), inputs()
    one.save_inference_model(folder)
    read = SAE.load_from_disk(folder)
    return x, read.encode(x), read(x)


@case("saelens/checkpoint_jumprelu", "jumprelu")
@case("saelens/checkpoint_batchtopk", "batchtopk", k=float(K))
@case("saelens/checkpoint_matryoshka", "matryoshka_batchtopk", k=float(K), matryoshka_widths=[WIDTH // 4, WIDTH // 2, WIDTH])
def saelens_checkpoint(folder: Path, architecture: str, **settings: Any) -> Written:
    """What a training leaves to go on from; what it means at inference is what the library would export."""
    from sae_lens import SAE
    one, x = training(architecture, **settings), inputs()
    one.save_model(folder)
    one.save_inference_model(folder / "exported")
    read = SAE.load_from_disk(folder / "exported")
    shutil.rmtree(folder / "exported")
    return x, read.encode(x), read(x)


def training(architecture: str, **settings: Any) -> Any:
    from sae_lens.registry import get_sae_training_class
    made, configured = get_sae_training_class(architecture)
    one = made(configured(d_in=D, d_sae=WIDTH, **settings))
    fill(one)
    if hasattr(one, "topk_threshold"):
        one.topk_threshold.fill_(0.8)
    if architecture == "matching_pursuit":
        one.W_dec /= one.W_dec.norm(dim=1, keepdim=True)
    return one


@case("saelens/temporal", "temporal", n_heads=2, bottleneck_factor=4)
def saelens_refused(folder: Path, architecture: str, **settings: Any) -> Written:
    """Codes of a token that depend on the tokens before it."""
    one, x = sae(architecture, **settings), inputs()
    one.save_model(folder)
    return x, one.encode(x[None])[0], one(x[None])[0]


OLD = {"d_in": D, "d_sae": WIDTH, "dtype": "torch.float32", "device": "cpu", "model_name": "tiny", "hook_point_layer": 3,
       "use_ghost_grads": False, "context_size": 32, "dataset_path": "text", "hook_point_head_index": None}


@case("saelens/old_standard", "standard", hook_point="blocks.3.hook_resid_pre", normalize_activations=False)
@case("saelens/old_topk", "topk", hook_name="blocks.3.hook_mlp_out", activation_fn_str="topk",
      activation_fn_kwargs={"k": K, "signed": False})
def saelens_old(folder: Path, architecture: str, **settings: Any) -> Written:
    """A flat configuration of before version 6, which the library still reads."""
    from sae_lens import SAE
    one, x = sae(architecture, **({"k": K} if architecture == "topk" else {})), inputs()
    one.save_model(folder)
    (folder / "cfg.json").write_text(json.dumps({**OLD, **settings}))
    read = SAE.load_from_disk(folder)
    return x, read.encode(x), read(x)


@case("saelens/scale_beside")
def saelens_scaled(folder: Path) -> Written:
    """A training's checkpoint: the scale of the inputs is in a file beside the weights."""
    one, x, factor = sae("jumprelu", normalize_activations="expected_average_only_in"), inputs(3.0), 0.4
    one.save_model(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False}))
    one.fold_activation_norm_scaling_factor(factor)
    return x, one.encode(x), one(x)


@case("saelens/whitening_beside", "standard")
@case("saelens/whitening_by_norm", "topk", k=K, rescale_acts_by_decoder_norm=True)
@case("saelens/whitening_no_subtraction", "standard", apply_b_dec_to_input=False)
def saelens_whitened(folder: Path, architecture: str, **settings: Any) -> Written:
    one, x = sae(architecture, normalize_activations="covariance_whitening", **settings), inputs()
    one.save_model(folder)
    matrix = torch.eye(D) + 0.1 * torch.randn(D, D)
    w = {"mean": torch.randn(D), "matrix": matrix, "inverse_matrix": torch.linalg.inv(matrix).contiguous()}
    save_file(w, folder / "activation_whitening.safetensors")
    one.fold_activation_whitening(w["mean"], matrix, w["inverse_matrix"])
    return x, one.encode(x), one(x)


# --- eai-sparsify -----------------------------------------------------------------------------------------------------

@case("sparsify/topk/layers.3")
@case("sparsify/bfloat16/layers.3", dtype=torch.bfloat16)
@case("sparsify/groupmax/layers.3", activation="groupmax")
@case("sparsify/transcoder/layers.3.mlp", transcode=True)
@case("sparsify/skip/layers.3.mlp", transcode=True, skip_connection=True)
@case("sparsify/old/layers.3", drop=("activation", "transcode"))
def sparsify(folder: Path, dtype: torch.dtype = torch.float32, drop: tuple[str, ...] = (), **settings: Any) -> Written:
    from sparsify import SparseCoder, SparseCoderConfig
    one = SparseCoder(D, SparseCoderConfig(num_latents=WIDTH, k=K, **settings), dtype=dtype)
    fill(one)
    one.save_to_disk(folder)
    (folder.parent / "config.json").write_text(json.dumps({"model": "tiny", "dataset": "text", "ctx_len": 32}))
    path = folder / "cfg.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in drop}))
    x = inputs()
    if dtype != torch.float32:   # the library computes in the file's type; what its numbers mean is compared exactly
        one = one.float()
    made = one(x)
    codes = torch.zeros(N, WIDTH).scatter(-1, made.latent_indices, made.latent_acts)
    return x, codes, made.sae_out


# --- dictionary_learning ----------------------------------------------------------------------------------------------

def dl_class(name: str) -> Any:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k
    return next(getattr(module, name) for module in (dictionary, top_k, batch_top_k, matryoshka_batch_top_k)
                if hasattr(module, name))


@case("dictionary_learning/AutoEncoder", "AutoEncoder")
@case("dictionary_learning/AutoEncoderNew", "AutoEncoderNew")
@case("dictionary_learning/GatedAutoEncoder", "GatedAutoEncoder")
@case("dictionary_learning/AutoEncoderTopK", "AutoEncoderTopK", K)
@case("dictionary_learning/BatchTopKSAE", "BatchTopKSAE", K, threshold=0.9)
@case("dictionary_learning/BatchTopKSAE_unmeasured", "BatchTopKSAE", K)
@case("dictionary_learning/MatryoshkaBatchTopKSAE", "MatryoshkaBatchTopKSAE", K, [WIDTH // 4, WIDTH // 4, WIDTH // 2],
      threshold=0.9)
@case("dictionary_learning/JumpReluAutoEncoder", "JumpReluAutoEncoder")
def dictionary_learning(folder: Path, name: str, *given: Any, threshold: float | None = None) -> Written:
    """Weights and configuration as its `trainSAE` saves them."""
    one, x = dl_class(name)(D, WIDTH, *given), inputs()
    fill(one)
    if threshold is not None:
        one.threshold.fill_(threshold)
    folder.mkdir(parents=True)
    torch.save(one.state_dict(), folder / "ae.pt")
    trainer = {"dict_class": name, "lm_name": "tiny", "layer": 3, "submodule_name": "resid_post_layer_3"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return x, one.encode(x), one(x)


@case("dictionary_learning/trained_scaled")
def dictionary_learning_trained(folder: Path) -> Written:
    """Trained on scaled activations, whose norm factor its config.json does not keep."""
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE
    data = [20 * (torch.randn(64, D) @ torch.diag(torch.linspace(0.2, 2, D)) + 1) for _ in range(150)]
    x = data[0][:N].clone()   # its trainSAE divides the data themselves by the norm factor
    trainer = dict(trainer=TopKTrainer, steps=150, activation_dim=D, dict_size=WIDTH, k=K, layer=3, lm_name="tiny", lr=3e-3,
                   warmup_steps=10, submodule_name="resid_post_layer_3", seed=0, device="cpu")
    trainSAE(data, [trainer], steps=150, save_dir=str(folder.parent / "run"), normalize_activations=True, device="cpu")
    shutil.move(folder.parent / "run" / "trainer_0", folder)
    shutil.rmtree(folder.parent / "run")
    one = AutoEncoderTopK.from_pretrained(folder / "ae.pt")
    return x, one.encode(x), one(x)


# --- circuit-tracer ---------------------------------------------------------------------------------------------------

HOOKS = {"feature_input_hook": "hook_resid_pre", "feature_output_hook": "hook_mlp_out"}


@case("circuit_tracer/relu", jump=False)
@case("circuit_tracer/jumprelu", jump=True)
@case("circuit_tracer/skip", jump=True, skip=True)
def circuit_tracer(folder: Path, jump: bool, skip: bool = False) -> Written:
    """One layer of a set, read by the library itself."""
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, load_transcoder_set
    activation = JumpReLU(torch.zeros(WIDTH), 0.1) if jump else torch.nn.functional.relu
    one, x = SingleLayerTranscoder(D, WIDTH, activation, 3, skip, dtype=torch.float32), inputs()
    fill(one)
    folder.mkdir(parents=True)
    one.to_safetensors(str(folder / "layer_3.safetensors"))
    (folder / "config.yaml").write_text(json.dumps({"model_kind": "transcoder_set", "model_name": "tiny", **HOOKS}))
    read = load_transcoder_set({0: str(folder / "layer_3.safetensors")}, "", *HOOKS.values(), dtype=torch.float32,
                               lazy_encoder=False, lazy_decoder=False)[0]
    codes = read.encode(x)
    return x, codes, read.decode(codes, x)


@case("circuit_tracer/clt_relu", "relu")
@case("circuit_tracer/clt_jumprelu", "jump_relu")
def circuit_tracer_clt(folder: Path, activation: str) -> Written:
    """A cross-layer transcoder: inputs [layers, n, d], codes [layers, n, width], reconstructions [layers, n, d]."""
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
    one = CrossLayerTranscoder(LAYERS, WIDTH, D, activation, lazy_decoder=False, dtype=torch.float32)
    fill(one)
    one.to_safetensors(str(folder))
    (folder / "config.yaml").write_text(json.dumps({"model_kind": "cross_layer_transcoder", "model_name": "tiny", **HOOKS}))
    read, x = load_clt(str(folder), dtype=torch.float32, lazy_decoder=False), torch.stack([inputs() for _ in range(LAYERS)])
    codes = read.encode(x)
    return x, codes, read.decode(codes)


# --- OpenAI -----------------------------------------------------------------------------------------------------------

@case("openai/resid_post_mlp/autoencoders", "ReLU")
@case("openai/resid_post_mlp_v5_32k/autoencoders", "TopK", normalize=True)
def openai(folder: Path, activation: str, **settings: Any) -> Written:
    """What its class computes; the keys of its published files, without what today's torch adds when it saves."""
    from sparse_autoencoder.model import Autoencoder, TopK
    one, x = Autoencoder(WIDTH, D, TopK(K) if activation == "TopK" else nn.ReLU(), **settings), inputs()
    fill(one)
    held = {name: value for name, value in one.state_dict().items() if isinstance(value, Tensor)}
    state = {"activation_state_dict": {"k": K, "postact_fn": "ReLU"}} if activation == "TopK" else {}
    folder.mkdir(parents=True)
    torch.save({**held, "activation": activation, **state}, folder / "7.pt")
    read = Autoencoder.from_state_dict(torch.load(folder / "7.pt"))
    codes, info = read.encode(x)
    return x, codes, read.decode(codes, info)


@torch.no_grad()
def main(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    for name, writer in CASES.items():
        torch.manual_seed(zlib.crc32(name.encode()))
        into = folder / name
        with torch.enable_grad() if "trained_scaled" in name else torch.no_grad():
            x, codes, made = writer(into)
        said = {"x": x, "codes": codes, "reconstruction": made}
        save_file({key: value.detach().float().contiguous() for key, value in said.items()}, into / "expected.safetensors")
    packages = {name: version(name) for name in PACKAGES}
    manifest = {"written_by": packages, "d": D, "width": WIDTH, "k": K, "cases": list(CASES)}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"{len(CASES)} dictionaries in {folder}, by {', '.join(f'{name} {v}' for name, v in packages.items())}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "files")
