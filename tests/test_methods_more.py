"""What single methods promise beyond the shared test: their formulas, written out again, and their finished dictionaries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_methods import data, recipe_of, trained
from torch.nn import functional as F
from torch.testing import assert_close

from cutaway.dictionaries import Dictionary, Facts, TopK
from cutaway.dictionaries.atm_sae import ATM
from cutaway.dictionaries.csr import CSR, Contrast
from cutaway.dictionaries.feature_choice import FeatureChoice, budgets
from cutaway.dictionaries.gba import GBA, frequencies
from cutaway.dictionaries.jump import Jump
from cutaway.dictionaries.mutual_choice import MutualChoice
from cutaway.dictionaries.parts import MultiTopK, Pass
from cutaway.dictionaries.progressive import Progressive, importance, prefix, sorted_by
from cutaway.dictionaries.top_afa import NormLoss, TopAFA
from cutaway.dictionaries.vsae import VSAE
from cutaway.dictionaries.whitening import check_whitening
from cutaway.dictionaries.zipf import AuxZipf, zipf
from cutaway.train import Settings
from cutaway.train.learner import Learner


def pass_of(learner: Learner, x: torch.Tensor, progress: float = 0.5) -> Pass:
    d = learner.dictionary
    return Pass(d, x, d.encode(x, progress), learner.silent, variance=float(d.d), progress=progress)


def test_top_afa_keeps_the_prefix_whose_norm_is_nearest() -> None:
    learner = trained(TopAFA(64), 40)
    d, x = learner.dictionary.double().requires_grad_(False), (data(5, 64) / learner.scale).double()
    codes = d.encode(x).dense(64)
    z = ((x - d.b_dec) @ d.W_enc.T + d.b_enc).relu()
    for row, kept, norm in zip(z, codes, (x - d.b_dec).norm(dim=1), strict=True):
        assert 0 < int((kept > 0).sum()) < 64
        order = row.argsort(descending=True)
        gaps = [abs(float(row[order[:m]].norm() - norm)) for m in range(1, 65)]
        chosen = order[: gaps.index(min(gaps)) + 1]
        wanted = torch.zeros(64, dtype=torch.float64)
        wanted[chosen] = row[chosen]
        assert_close(kept, wanted, atol=1e-5, rtol=1e-5)
    now = pass_of(learner, x)
    assert_close(NormLoss(0.5)(now), 0.5 * (codes.norm(dim=1) - (x - d.b_dec).norm(dim=1)).pow(2).mean())


def test_vsae_without_noise_is_topk_with_a_penalty_on_all_latents() -> None:
    ours = Learner(VSAE(64, 6, beta=0.3), data(0, 1024), 20, 64, 0)
    same = Learner(TopK(64, 6), data(0, 1024), 20, 64, 0)
    x = data(3, 64) / ours.scale
    now = pass_of(ours, x)
    assert_close(now.reconstruction, same.dictionary.decode(same.dictionary.encode(x, 0.5)))
    mu = ((x - now.dictionary.b_dec) @ now.dictionary.W_enc.T + now.dictionary.b_enc).relu()
    assert_close(ours.losses[1](now), 0.3 * 0.5 * mu.clamp(max=10).pow(2).sum() / (64 * 32))


@pytest.mark.parametrize("sigma", [1.0, None])
def test_vsae_noise_belongs_to_training_and_is_drawn_again_for_the_same_batch(sigma: float | None) -> None:
    learner = Learner(VSAE(64, 6, sigma=sigma), data(0, 1024), 20, 64, 0)
    d, x = learner.dictionary, data(3, 64) / learner.scale
    first, again, other = (d.encode(y, 0.5).dense(64) for y in (x, x, x.flip(0)))
    assert torch.equal(first, again) and not torch.equal(first, other.flip(0))
    assert not torch.equal(first, d.encode(x, 1.0).dense(64))
    assert_close(learner.export(Facts())(data(3, 64)), learner.scale * d.decode(d.encode(x, 1.0)), atol=1e-4, rtol=1e-4)


def test_zipf_finds_the_law_and_what_falls_short_of_it() -> None:
    rank = torch.arange(1, 201)
    law = 0.4 / (rank + 3.0) ** 1.1
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert_close(zipf(law[order]), law[order], rtol=0.05, atol=0)
    short = law.clone()
    short[190:], short[195:] = law[190:] / 30, 0
    learner = Learner(MutualChoice(200, 5), data(0, 1024), 20, 64, 0)
    learner.dictionary.extra["density"].data.copy_(short)
    under = AuxZipf(10**9).dead(pass_of(learner, data(3, 16)))
    assert set(range(190, 200)) <= set(under.tolist()) and len(under) < 20
    assert not zipf(torch.zeros(8)).any(), "nothing is expected where nothing is known"


def test_feature_choice_gives_each_latent_its_best_tokens() -> None:
    learner = trained(FeatureChoice(64, 4, switch=0.5), 60)
    d, x = learner.dictionary, data(9, 128) / learner.scale
    codes, take = d.encode(x, 0.8), budgets(d.extra["density"].data, 128, 4, "zipf")
    z = (x - d.b_dec) @ d.W_enc.T + d.b_enc
    for latent in range(64):
        best = z[:, latent].topk(int(take[latent])).indices
        wanted = torch.zeros(128).scatter(0, best, z[best, latent].detach().relu())
        assert_close(codes.of(latent).detach(), wanted)
    assert int(take.min()) >= 1 and abs(int(take.sum()) - 4 * 128) <= 64
    assert budgets(d.extra["density"].data, 128, 4, "uniform").unique().tolist() == [8]


def test_gba_biases_move_as_the_algorithm_says_and_the_finished_dictionary_is_equal() -> None:
    learner = trained(GBA(60, l0=6.0, groups=3), 40)
    d, part = learner.dictionary, learner.dictionary.sparsify
    d.b_enc.data.fill_(-1.0)
    peak = torch.linspace(0, 3, 60)
    share = torch.full((60,), 1.0)
    share[:30], share[:3] = 1e-6, 0.0
    part.adapt(d, share, peak)
    mean = torch.stack([peak[g::3][peak[g::3] > 0].mean() for g in range(3)])
    assert_close(d.b_enc.data[:3], -1 + part.step * mean)                 # never fired: raised by the group's mean
    assert_close(d.b_enc.data[3:30], torch.full((27,), -1.0))             # below the target: left alone
    assert_close(d.b_enc.data[30:], -1 - part.step * peak[30:])           # above it: lowered
    x = data(5)
    assert_close(learner.export(Facts()).encode(x).dense(60), learner.scale * d.encode(x / learner.scale).dense(60),
                 atol=1e-4, rtol=1e-4)
    assert sum(frequencies(6.0, 60, 3, 100.0)) / 3 * 60 == pytest.approx(6.0)


@pytest.mark.parametrize("id", ["batch-topk", "matryoshka", "mutual-choice"])
def test_what_chooses_in_a_batch_becomes_a_threshold_with_the_scale_folded_in(id: str) -> None:
    learner = trained(recipe_of(id), 60)
    d, made, x = learner.dictionary, learner.export(Facts()), data(9, 128)
    assert isinstance(made.sparsify, Jump) and learner.scale > 2
    z = (x / learner.scale - d.b_dec) @ d.W_enc.T + d.b_enc
    wanted = torch.where(z > d.extra["least"], z, 0).detach()
    assert_close(made.encode(x).dense(made.width), learner.scale * wanted, atol=1e-4, rtol=1e-4)
    assert_close(made(x), learner.scale * (wanted @ d.W_dec + d.b_dec).detach(), atol=1e-3, rtol=1e-4)
    # At a batch's own least value the codes are those that it had in training.
    codes = d.encode(x / learner.scale, 1.0)
    least = float(codes.values[codes.values > 0].amin().detach())
    assert_close(torch.where(z >= least, z, 0).detach(), codes.dense(made.width).detach(), atol=1e-5, rtol=1e-5)


WHITENED = ["topk", "abstopk", "k-sparse", "group-max", "relu-l1", "batch-topk", "matryoshka", "feature-choice", "gated",
            "jumprelu", "gba", "csr", "vsae"]


@pytest.mark.parametrize("id", WHITENED)
def test_whitening_is_folded_into_a_dictionary_that_gives_the_same_codes(id: str, tmp_path: Path) -> None:
    x = data(0, 4096) @ torch.diag(torch.linspace(0.2, 4.0, 32)) + 3.0
    learner = Learner(recipe_of(id), x, 40, 256, 0, Settings("exact", whiten=True))
    m = learner.whitening
    assert m is not None
    assert_close(torch.cov((learner._scaled(x)).T), torch.eye(32), atol=1e-3, rtol=1e-3)
    for step in range(40):
        learner.step(x[step * 100: step * 100 + 256])
    made = learner.export(Facts())
    learner.whitening = None
    inside, part = learner.export(Facts()), x[:200]       # of activations that were whitened by hand
    codes = inside.encode(part @ m)
    assert codes.l0.float().mean() > 1
    assert_close(made.encode(part).dense(made.width), codes.dense(made.width), atol=2e-3, rtol=2e-3)
    assert_close(made(part), inside.decode(codes) @ torch.linalg.inv(m), atol=5e-3, rtol=2e-3)
    again = Dictionary.load(made.save(tmp_path / "d.safetensors"))
    assert torch.equal(again(part), made(part)) and not again.tied


def test_whitening_goes_on_exactly_and_refuses_what_cannot_be_folded() -> None:
    x, settings = data(0, 2048), Settings("exact", whiten=True)
    straight, half = (Learner(recipe_of("topk"), x, 8, 256, 0, settings) for _ in range(2))
    for step in range(8):
        straight.step(x[step * 256: step * 256 + 256])
    for step in range(4):
        half.step(x[step * 256: step * 256 + 256])
    tensors, facts = half.state()
    other = Learner(recipe_of("topk"), x, 8, 256, 0, settings)
    other.whitening = torch.eye(32)       # what another machine might compute is not used
    other.load_state({name: t.clone() for name, t in tensors.items()}, facts)
    for step in range(4, 8):
        other.step(x[step * 256: step * 256 + 256])
    assert torch.equal(other.export(Facts()).W_enc, straight.export(Facts()).W_enc)
    for id in ("mp-sae", "top-afa", "transcoder"):
        with pytest.raises(ValueError, match=f"{id} takes whiten=False"):
            check_whitening(recipe_of(id))


def test_csr_terms_are_the_formulas() -> None:
    learner = Learner(CSR(64, 4), data(0, 1024), 20, 64, 0)
    now = pass_of(learner, data(3, 32) / learner.scale)
    z = F.normalize(now.codes.dense(64), dim=1)
    s = (z @ z.T / 0.2).double()
    assert_close(Contrast(1.0)(now).double(), -(s.diagonal() - s.exp().sum(1).log()).mean(), atol=1e-5, rtol=1e-5)
    wider = TopK(64, 16).sparsify(now.x, now.dictionary)
    error = (now.dictionary.decode(wider) - now.x).pow(2).sum() / (32 * 32)
    assert_close(MultiTopK(0.5)(now), 0.5 * error)
    assert MultiTopK(1 / 8) in learner.losses and MultiTopK(1 / 4) in TopK(64, 4, multi=1 / 4).losses


def test_a_sorted_dictionary_is_the_same_and_its_prefixes_are_its_first_latents() -> None:
    made = trained(Progressive(64, 4), 60).export(Facts())
    x = data(7, 512)
    ranks = importance(made, x)
    z = made.encode(x).dense(64).double()
    assert_close(ranks["energy"], z.pow(2).mean(0), atol=1e-6, rtol=1e-4)
    assert_close(ranks["frequency"], (z != 0).double().mean(0))
    ordered = sorted_by(made, ranks["energy"])
    assert_close(ordered(x), made(x), atol=1e-4, rtol=1e-4)
    energy = importance(ordered, x)["energy"]
    assert (energy.diff() <= 1e-9).all()
    errors = [float((prefix(ordered, n)(x) - x).pow(2).mean()) for n in (8, 32, 64)]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(ValueError, match="1 to 64"):
        prefix(made, 65)


def test_atm_masks_whole_latents_and_leaves_the_masked_out_in_the_end() -> None:
    learner = trained(ATM(64, l0=6.0), 100)
    d, x = learner.dictionary, data(7) / learner.scale
    free, masked = d.encode(x, 0.0).dense(64), d.encode(x, 0.5).dense(64)
    gone = (free != 0).any(0) & ~(masked != 0).any(0)
    assert gone.any() and torch.equal(masked[:, ~gone], free[:, ~gone])
    out = d.sparsify.chances(d) < 0.5
    finished = learner.export(Facts()).encode(data(7)).dense(64)
    assert not finished[:, out].any() and finished[:, ~out].any()
    score = d.sparsify.chances(d)
    assert torch.equal((d.sparsify.chances(d, 0.9) < 0.5), (score < 0.5)), "a lower temperature moves no chance across one half"


@pytest.mark.parametrize("wrong", [
    lambda: MutualChoice(8, 9), lambda: MutualChoice(8, 2, auxiliary="some"), lambda: FeatureChoice(8, 2, shares="some"),
    lambda: VSAE(8, 2, sigma=-1.0), lambda: GBA(8, l0=9.0), lambda: CSR(8, 0), lambda: Progressive(8, 2, shares=(2.0,))])
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="found"):
        wrong()
