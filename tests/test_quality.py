"""The profile of a dictionary: its figures at known answers, its controls, and what it says of figures that mislead."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers import tiny_llama
from torch.nn import functional as F

import cutaway as cw
from cutaway.dictionaries import Codes, Dictionary, Facts, parts
from cutaway.dictionaries.evaluate import harmless, moved_to
from cutaway.dictionaries.quality import (
    ablation,
    absorption,
    contract,
    controls,
    core,
    description,
    interchange,
    labels,
    probes,
    stability,
    truth,
)
from cutaway.dictionaries.quality.bench import Bench, gather
from cutaway.dictionaries.quality.contract import Sums, Undefined, average, less, mean_of
from cutaway.dictionaries.quality.held_out import held_out
from cutaway.dictionaries.quality.keeping import joined
from cutaway.dictionaries.quality.line import Line, plain
from cutaway.dictionaries.quality.profile import METRICS, lines_of
from cutaway.dictionaries.quality.tasks import Tasks
from cutaway.dictionaries.truth import World, judge
from cutaway.dictionaries.truth.synth import synth
from cutaway.dictionaries.truth.worlds import hierarchical, manifolds
from cutaway.metrics import Figure

D, WIDTH, K = 16, 48, 4
FACTS = dict.fromkeys(("network", "fingerprint", "dictionary", "data", "tokens", "seeds"), "")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_dictionary(seed: int = 0, facts: Facts = Facts(site="blocks.1")) -> Dictionary:  # noqa: B008
    made = Dictionary(D, WIDTH, parts.TopK(K), facts)
    with torch.no_grad():
        made.W_dec.copy_(F.normalize(numbers(WIDTH, D, seed=seed), dim=1))
        made.W_enc.copy_(made.W_dec)
    return made.requires_grad_(False)


def a_bench(x: torch.Tensor, groups: int = 20, **facts) -> Bench:
    group = np.arange(len(x)) * groups // len(x)
    return Bench(x, group, np.arange(len(x)), np.zeros(len(x), int), "blocks", **facts)


def value(results: contract.Results, name: str) -> float:
    found = results[name]
    assert isinstance(found, Sums), found
    return found.value


# --- core figures at known answers --------------------------------------------------------------------------------------


def test_explained_variance_is_about_the_mean_of_each_dimension():
    x = numbers(400, D) + 50                                # a mean that is far from zero
    constant, perfect = a_dictionary(), controls.neurons(a_dictionary(), x, 0)
    with torch.no_grad():
        constant.W_enc.zero_(), constant.b_dec.copy_(x.mean(0))
    found = core.reconstruction(constant, a_bench(x))
    assert value(found, "explained_variance") == pytest.approx(0, abs=1e-6)
    assert value(found, "cossim") > 0.9, "which is why a cosine alone says little"
    found = core.reconstruction(perfect, a_bench(x))
    assert value(found, "explained_variance") == pytest.approx(1, abs=1e-6) and value(found, "l0") == D
    half = replace_rows(perfect, 0.5)
    uneven = x * torch.rand(400, 1, generator=torch.Generator().manual_seed(1))
    found = core.reconstruction(half, a_bench(uneven))
    expected = 1 - (uneven - half(uneven)).double().pow(2).sum() / (uneven - uneven.mean(0)).double().pow(2).sum()
    assert value(found, "explained_variance") == pytest.approx(float(expected), rel=1e-5)
    assert value(found, "explained_variance_per_token") != pytest.approx(float(expected), rel=1e-2)


def replace_rows(dictionary: Dictionary, scale: float) -> Dictionary:
    made = Dictionary(D, dictionary.width, dictionary.sparsify, dictionary.facts)
    with torch.no_grad():
        made.W_dec.copy_(scale * dictionary.W_dec), made.W_enc.copy_(dictionary.W_enc), made.b_dec.copy_(dictionary.b_dec)
    return made.requires_grad_(False)


def test_shrinkage_is_below_one():
    x = numbers(300, D)
    half = replace_rows(controls.neurons(a_dictionary(), x * 0, 0), 0.5)
    found = core.reconstruction(half, a_bench(x))
    assert value(found, "relative_reconstruction_bias") == pytest.approx(0.5, rel=1e-4)
    assert value(found, "l2_ratio") == pytest.approx(0.5, rel=1e-4)


def test_codes_are_the_same_after_every_metric():
    x, made = numbers(500, D), a_dictionary()
    with torch.no_grad():
        made.b_enc.fill_(-1.0)                               # so that some of the k places are empty
    bench = a_bench(x)
    before = made.encode(x).dense(WIDTH)
    core.firing(made, bench), bench.dense(made, np.arange(5))
    torch.testing.assert_close(bench.codes(made).dense(WIDTH), before)
    assert np.array_equal(bench.dense(made, np.arange(500)), before.numpy())


# --- the truth ----------------------------------------------------------------------------------------------------------


def knowing(known: World, bench: Bench, codes: torch.Tensor, order: np.ndarray) -> Dictionary:
    """A dictionary of the true directions in some order, whose codes of a bench are given: [n, m]."""
    made = Dictionary(known.d, known.m, parts.LargestLinear(known.m))
    with torch.no_grad():
        made.W_dec.copy_(known.frames[order, 0])
    bench._codes[id(made)] = (made, Codes(codes[:, order], torch.arange(known.m).expand(len(codes), known.m)))
    return made


def test_the_true_directions_and_codes_score_one():
    known = hierarchical()
    bench = truth.bench_of(known, 2_000)
    strength = bench.truth[1].strength
    for order in (np.arange(known.m), np.random.default_rng(0).permutation(known.m)):
        found = truth.truth(knowing(known, bench, strength, order), bench)
        assert value(found, "mcc") == pytest.approx(1) and value(found, "uniqueness") == 1
        fires = (strength > 0).any(0).numpy()
        assert value(found, "latent_f1") == pytest.approx(fires.mean()), "features that were never there cannot be found"
        assert value(found, "absorption_true") == 0


def test_absorption_is_seen_where_it_is_planted():
    known = hierarchical()
    bench = truth.bench_of(known, 2_000)
    whole = bench.truth[1].strength
    absorbing = whole.clone()
    for child, parent in enumerate(known.parents.tolist()):
        if parent >= 0:
            absorbing[whole[:, child] > 0, parent] = 0       # the parent is silent wherever a child is on
    found = {name: value(truth.truth(knowing(known, bench, codes, np.arange(known.m)), bench), "absorption_true")
             for name, codes in (("whole", whole), ("absorbing", absorbing))}
    assert found == {"whole": 0, "absorbing": 1}


def test_the_profile_and_the_judge_of_worlds_say_the_same():
    known = hierarchical()
    one = controls.random_initial(Dictionary(known.d, known.m, parts.TopK(K)), known.sample(500).x, 0)
    found, figures = truth.truth(one, truth.bench_of(known, 1_000, seed=5)), judge(one, known, 1_000, seed=5)
    for ours, theirs in (("mcc", "cosine"), ("latent_f1", "f1"), ("uniqueness", "unique"), ("absorption_true", "absorption")):
        assert value(found, ours) == pytest.approx(figures[theirs], abs=1e-6)


def test_the_oracle_is_a_ceiling_and_manifolds_have_none():
    known = synth(64, 32, roots=4, depth=1, seed=0)
    bench = truth.bench_of(known, 2_000)
    made = controls.random_initial(Dictionary(32, 48, parts.TopK(4)), bench.x, 0)
    role, found = truth.anchors(made, bench)["oracle"]
    assert role == "ceiling" and value(found, "mcc") == pytest.approx(1)
    assert value(truth.truth(made, bench), "mcc") < 0.7, "the random rows must not be the numbers that the world was drawn from"
    assert truth.oracle(made, truth.bench_of(manifolds(m=12), 500)) is None


# --- intervals and verdicts ---------------------------------------------------------------------------------------------


def test_a_figure_that_random_reaches_does_not_discriminate():
    bench, lines = a_bench(numbers(2_000, D)), {}
    facts = FACTS
    for line in lines_of(METRICS["reconstruction"], controls.random_initial(a_dictionary(), bench.x, 99), bench, facts):
        lines[line.name] = line
    # A dictionary of random rows beside others: none of its figures may claim that it was trained.
    assert lines["l0"].verdict.startswith("describes")
    low, high = lines["explained_variance"].difference[1:]
    assert high - low < 0.2 and abs(low + high) / 2 < 0.05


def test_paired_intervals_are_narrower_and_unpaired_ones_are_possible():
    random = np.random.default_rng(0)
    difficulty = random.normal(0, 5, 200)
    ours, theirs = (mean_of(difficulty + shift + random.normal(0, 0.1, 200), "higher", "tasks") for shift in (0.3, 0.0))
    difference, low, high = less(ours, theirs)
    assert low < 0.3 < high and high - low < 0.1 < ours.interval[1] - ours.interval[0]
    other = mean_of(random.normal(0, 5, 150), "higher", "tasks")
    assert less(ours, other)[1] < -0.3 and less(ours, other)[2] > 0.5, "independent things give a wide interval"
    assert average([ours, theirs]).value == pytest.approx((ours.value + theirs.value) / 2)


def test_a_figure_that_plain_dimensions_reach_says_so():
    bench = labelled()
    facts = FACTS
    line = {line.name: line for line in lines_of(METRICS["targeted_perturbation"], axes(list(range(D))), bench, facts)}
    assert line["tpp_intended"].no_better_than and "neurons" in line["tpp_intended"].no_better_than


def test_what_is_undefined_has_a_reason_and_is_no_number():
    found = mean_of([np.nan, np.nan, 1.0], "higher", "tasks")
    assert isinstance(found, Undefined) and "1 of 3 tasks" in found.reason
    assert mean_of([np.nan, 0.0, 1.0], "higher", "tasks").value == 0.5
    few = description.description(a_dictionary(), a_bench(numbers(10, D), groups=1))
    assert all(isinstance(figure, Undefined) and "too few rows" in figure.reason for figure in few.values())


# --- probes -------------------------------------------------------------------------------------------------------------


def test_probes_agree_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score, roc_auc_score
    x, noise = numbers(300, 5).numpy().astype(np.float64) * [1, 10, 0.1, 1, 1] + 3, numbers(300, seed=1).numpy()
    y = x[:, 0] + 5 * x[:, 2] + noise > 3.5 + 15
    z = (x - x.mean(0)) / x.std(0)
    ours, theirs = probes.fit(x, y, 0.01), LogisticRegression(C=1 / (0.01 * 300), tol=1e-10, max_iter=1000).fit(z, y)
    np.testing.assert_allclose(ours(x), theirs.decision_function(z), atol=1e-3)
    score = np.round(ours(x))
    assert probes.auc(score, y) == pytest.approx(roc_auc_score(y, score))
    assert probes.f1(ours(x), y) == pytest.approx(f1_score(y, ours(x) > 0))


def labelled(n: int = 6_000) -> Bench:
    """Activations in which six questions have a direction each, and a dictionary's rows are these directions."""
    random = np.random.default_rng(0)
    y = random.random((n, 6)) < 0.4
    x = torch.from_numpy((y * 2.0) @ np.eye(6, D) + 0.3 * random.standard_normal((n, D))).float()
    bench = a_bench(x, 60)
    nothing = np.full(n, -1)
    bench.__dict__["tasks"] = Tasks(tuple(f"class {i}" for i in range(6)), y, np.ones(n, bool), nothing, nothing, "made")
    return bench


def axes(order: list[int]) -> Dictionary:
    made = Dictionary(D, D, parts.LargestLinear(D), Facts())
    with torch.no_grad():
        made.W_enc.copy_(torch.eye(D)), made.W_dec.copy_(torch.eye(D)[order])
    return made.requires_grad_(False)


def test_probing_knows_features_from_noise_and_shuffled_labels():
    bench = labelled()
    lines = {line.name: line for line in lines_of(
        METRICS["sparse_probing"], axes(list(range(D))), bench,
        FACTS)}
    line = lines["probing_auc_k1"]
    assert line.figure.value > 0.98 and line.figure.n == 6
    assert abs(line.controls["shuffled labels"].value - 0.5) < 0.1
    assert line.controls["probe on all dimensions"].value > 0.98
    assert line.tells and line.controls["random"].value < 0.95


def test_perturbation_breaks_the_intended_probe_only():
    bench = labelled()
    own = METRICS["targeted_perturbation"].measure(axes(list(range(D))), bench)
    assert value(own, "tpp_intended") > 0.2, "the class's own axis is among those that are cut"
    assert value(METRICS["targeted_perturbation"].measure(axes(list(range(8, 16)) + list(range(8))), bench),
                 "tpp_intended") < 0.1, "a decoder that points elsewhere breaks nothing"


def test_removing_the_spurious_axis_repairs_a_biased_probe(monkeypatch):
    from cutaway.dictionaries.quality import spurious
    monkeypatch.setattr(spurious, "NS", (1, 2))
    monkeypatch.setattr(spurious, "NAMES", ("scr_1", "scr_2"))
    bench = labelled(12_000)
    bench.x = bench.x + numbers(*bench.x.shape)               # so that the other question helps, and bias costs something
    right = spurious.removal(axes(list(range(D))), bench)
    wrong = spurious.removal(axes(list(range(8, 16)) + list(range(8))), bench)
    assert value(right, "scr_1") > 0.2 > 0.0 > value(wrong, "scr_1")


def test_a_dictionary_without_a_class_cannot_absorb_it():
    bench = labelled()
    y = bench.tasks.y[:, 0]
    asked = absorption.question(bench, "string", y, bench.tasks.known, bench.split(0), 0)
    blind = axes(list(range(D)))
    with torch.no_grad():
        blind.W_enc[0] = 0
    assert absorption.absorbed(axes(list(range(D))), bench, asked) == (0.0, 0.0)
    assert absorption.absorbed(blind, bench, asked) is None


def test_taking_over_a_questions_own_axis_changes_its_answer_and_no_other():
    bench = labelled()
    lines = {line.name: line for line in lines_of(
        METRICS["interchange"], axes(list(range(D))), bench,
        FACTS)}
    line = lines["interchange_both"]
    assert line.figure.value > 0.95 and lines["interchange_cause"].figure.value > 0.95 and line.tells
    assert line.controls["nothing"].value == 0, "what changes nothing is not half right"
    assert lines["interchange_isolation"].controls["nothing"].value == 1
    assert lines["interchange_cause"].controls["everything"].value == 1
    assert lines["interchange_isolation"].controls["everything"].value == line.controls["everything"].value == 0
    assert line.controls["along the probe"].value > 0.95
    elsewhere = interchange.interchange(axes(list(range(8, 16)) + list(range(8))), bench)
    assert value(elsewhere, "interchange_cause") < 0.1, "a decoder that points elsewhere answers nothing"


def test_bits_are_those_of_the_distribution():
    from scipy.sparse import csr_matrix
    random = np.random.default_rng(0)
    p = np.array([0.5, 0.1, 0.01])
    on = (random.random((20_000, 3)) < p).astype(float)                        # levels of 0 and 1 alone
    coder = description.Coder.fitted(csr_matrix(on[:10_000]))
    found = coder.bits(csr_matrix(on[10_000:])).mean()
    entropy = float((-p * np.log2(p) - (1 - p) * np.log2(1 - p)).sum())
    assert entropy <= found < entropy + 0.06
    levels = np.arange(-400, 401)
    one = description.Coder(np.array([0.3]), np.array([1.7]), np.array([2.2]))
    mass = 2.0 ** -one.bits(csr_matrix(levels[levels != 0, None].astype(float)))
    assert 0.6 < mass.sum() / 0.3 <= 1, "a code that spends more than there is would be too good"


def test_sparse_features_are_described_in_fewer_bits_than_components():
    known = synth(64, 32, roots=4, depth=1, seed=0)
    bench = truth.bench_of(known, 6_000)
    every = knowing(known, bench, bench.truth[1].strength, np.arange(64))
    with torch.no_grad():
        every.b_dec.copy_(known.bias)
    rotated = controls.components(every, bench.x, 0)
    ours, same = (description.description(made, bench) for made in (every, rotated))
    assert value(ours, "description_ratio") < 0.8
    assert value(same, "description_ratio") == pytest.approx(1, abs=0.02), "components are as long as themselves"
    mixed = controls.permuted(every, bench.x, 0)
    bench._codes[id(mixed)] = (mixed, bench.codes(every))
    lost = description.description(mixed, bench)["description_ratio"]
    assert isinstance(lost, Undefined) and "FVU" in lost.reason


# --- other diagnostics --------------------------------------------------------------------------------------------------


def test_concentration_at_known_answers():
    one, gaussian = np.zeros((1, 1000)), np.random.default_rng(0).standard_normal((1, 100_000))
    one[0, 3] = 5
    assert ablation.concentration(np.ones((1, 10)))[0] == pytest.approx(1)
    assert ablation.concentration(one)[0] == pytest.approx(1e-3)
    assert ablation.concentration(gaussian)[0] == pytest.approx(2 / np.pi, abs=0.01)


def test_a_dictionary_is_stable_against_its_permutation_and_not_against_chance():
    one = a_dictionary()
    other = controls.permuted(one, numbers(50, D), 3)
    assert stability.partners(one.W_dec, other.W_dec) == pytest.approx(np.ones(WIDTH), abs=1e-5)
    assert stability.partners(one.W_dec, a_dictionary(7).W_dec).mean() < 0.7
    with pytest.raises(ValueError, match="one site"):
        stability.stability(one, a_bench(numbers(50, D), others=(a_dictionary(0, Facts(site="blocks.0")),)))


def test_controls_are_what_they_say():
    x, made = numbers(3_000, D) * torch.arange(1, D + 1) + 5, a_dictionary()
    random = controls.random_initial(made, x, 0)
    assert float(random.encode(x).l0.float().mean()) == pytest.approx(float(made.encode(x).l0.float().mean()), rel=0.05)
    assert not torch.equal(random.W_dec, controls.random_initial(made, x, 1).W_dec)
    shuffled = controls.permuted(made, x, 0)
    assert torch.equal(shuffled.encode(x).values, made.encode(x).values)
    torch.testing.assert_close(controls.neurons(made, x, 0)(x), x)
    torch.testing.assert_close(controls.components(made, x, 0)(x), x, atol=1e-3, rtol=1e-3)
    few = controls.few_components(made, x, 0)
    left = (x - few(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    expected = np.linalg.eigvalsh(np.cov(x.numpy().T))
    assert float(left) == pytest.approx(expected[:-few.width].sum() / expected.sum(), rel=1e-2)


# --- labels of Python source --------------------------------------------------------------------------------------------

SOURCE = '''import os  # why
@cache
def f(self, x=1):
    """What it does."""
    if x and g(self.Value, key="s"):
        return [1, _a[0]]
'''


def marked(task: str, source: str = SOURCE) -> str:
    marks = labels.python(source)
    assert marks is not None
    return "".join(c for c, m in zip(source, marks[task], strict=False) if m)


@pytest.mark.parametrize(("task", "text"), [
    ("comment", "# why"), ("docstring", '"""What it does."""'), ("import line", "import os  # why\n"),
    ("decorator", "@cache\n"),
    ("string", '"""What it does.""""s"'), ("self", "selfself"), ("attribute", "Value"), ("called", "fg"),
    ("keyword argument", "xkey"), ("capitalised", "Value"), ("private", "_a"), ("number", "110"),
    ("subscript", "0]"), ("keyword", "importdefifandreturn"),
    ("line start", 'import@def"""What it does."""ifreturn')])
def test_labels_of_known_source(task, text):
    assert marked(task).replace(" ", "") == text.replace(" ", "")


def test_brackets_and_indentation():
    assert "self, x=1)" in marked("parameter") and "self" not in marked("display")
    assert marked("call argument").startswith("self.Value") and 'key="s")' in marked("call argument")
    assert marked("indent 2").strip().startswith("return") and not marked("indent 3").strip()
    marks = labels.python(SOURCE)
    assert marks["next newline"][SOURCE.index("why") + 3] and marks["next name"][SOURCE.index("import") + 6]


def test_text_that_is_not_python_has_no_labels():
    assert labels.python("it isn't (Python") is None


# --- on a network -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reading():
    net = tiny_llama()
    texts = [f"# number {i}\n" + "".join(f"def f{j}(self, x):\n    return self.x[{i + j}] + 'text'\n" for j in range(24))
             for i in range(24)]
    return net, cw.corpus(texts, net), texts


def test_a_whole_profile_of_a_network(reading, tmp_path):
    net, data, _ = reading
    one = a_dictionary()
    found = cw.profile(one, net, data, others=[a_dictionary(1)], tokens=4_000, metrics=[
        "reconstruction", "firing", "weights", "behaviour", "ablation_sparsity", "stability", "truth"])
    line = found["kl_div_score"]
    assert line.controls["neurons"].value == pytest.approx(1, abs=1e-3) and line.controls["neurons"].role == "ceiling"
    assert {"random", "permuted"} <= {name for name, control in line.controls.items() if control.role == "floor"}
    assert abs(found["kl"].controls["neurons"].value) < 1e-4
    assert found["mcc"].verdict.startswith("undefined: what the activations")
    assert found["stability_cosine"].figure.value < 0.9
    kept = json.loads(found.save(tmp_path / "profile.json").read_text())
    shown = next(line for line in kept["lines"] if line["name"] == "mcc")
    assert shown["figure"]["value"] is None and shown["figure"]["undefined"] and kept["held_out"].startswith("whether")
    assert all("(" not in line["metric"] and "@" in line["metric"] for line in kept["lines"])
    again = cw.profile(one, net, data, tokens=4_000, metrics=["reconstruction", "stability"])
    assert again["stability_cosine"].digest != found["stability_cosine"].digest, "it was compared with others"
    assert again["explained_variance"].figure == found["explained_variance"].figure
    assert again["explained_variance"].digest == found["explained_variance"].digest
    other = cw.profile(one, net, data, tokens=2_000, metrics=["reconstruction"])
    assert other["explained_variance"].digest != found["explained_variance"].digest


def test_tokens_get_the_labels_of_their_text(reading):
    net, data, _ = reading
    bench = gather(net, a_dictionary(), data, 3_000)
    assert bench.grouped_by == "documents" and bench.groups == 24
    tasks = bench.tasks
    texts = {int(i): net.tokenizer.decode([int(i)]) for i in np.unique(tasks.token)}
    assert tasks.known.all() and {"string", "keyword", "def line"} <= set(tasks.names)
    quoted = [texts[int(i)] for i in tasks.token[tasks.of("string")]]
    assert set("".join(quoted).replace(" ", "")) <= set("'text")
    first, last = bench.split(0), bench.split(1)
    assert all(len(set(first[bench.group == g])) == 1 for g in range(24)) and not np.array_equal(first, last)


def test_documents_that_were_trained_on_are_left_out(reading):
    net, data, texts = reading
    half = cw.corpus(texts[:12], net)
    free, said = held_out(data, half)
    assert 0 < free.n_rows <= data.n_rows / 2 + 1 and "12 documents; rows with 12 that are were left out" in said
    assert held_out(data, cw.corpus(["def other(): pass\n" * 40], net))[0].n_rows == data.n_rows
    with pytest.raises(ValueError, match="which the dictionary was trained on"):
        cw.profile(a_dictionary(), net, data, trained_on=data, metrics=["firing"])


def test_bad_input_is_one_sentence(reading):
    net, data, _ = reading
    with pytest.raises(ValueError, match="there is no metric 'scores'; there are truth"):
        cw.profile(a_dictionary(), net, data, metrics=["scores"])
    with pytest.raises(ValueError, match="at least three seeds"):
        cw.profile(a_dictionary(), net, data, seeds=(0,))
    with pytest.raises(ValueError, match="give net"):
        cw.profile(a_dictionary(), None, data)
    assert replace(METRICS["truth"], version=2).name == "truth@2"


# --- what a demanding reader would ask ----------------------------------------------------------------------------------


def test_the_same_class_in_several_splits_is_one_thing():
    """Three splits of the same documents are no threefold evidence: the interval must not shrink with them."""
    values = np.array([0.1, 0.5, 0.9, 0.4])
    once = mean_of(values, "higher", "classes")
    thrice = mean_of(np.tile(values, 3), "higher", "classes in 3 splits", things=[*"abcd"] * 3)
    assert thrice.n == once.n == 4 and thrice.value == pytest.approx(once.value)
    assert thrice.interval == pytest.approx(once.interval)
    blind = mean_of([np.nan] * 4 + [0.2] * 2, "higher", "classes", least=3, things=[*"aabbcc"])
    assert isinstance(blind, Undefined) and blind.reason == "it is defined for 1 of 3 classes, and needs 3"


@pytest.mark.parametrize("metric", ["targeted_perturbation", "interchange"])
def test_diagnostics_count_questions_and_not_their_splits(metric):
    bench = labelled()
    found = METRICS[metric].measure(axes(list(range(D))), bench)
    assert all(result.n <= len(bench.tasks.names) for result in found.values() if isinstance(result, Sums))


def test_probes_are_learned_once_for_all_dictionaries(monkeypatch):
    from cutaway.dictionaries.quality import perturbation, spurious
    bench, made = labelled(12_000), axes(list(range(D)))
    bench.x = bench.x + numbers(*bench.x.shape)
    first = [module_measure(made, bench) for module_measure in (perturbation.drops, spurious.removal)]
    for module in (perturbation, spurious):
        monkeypatch.setattr(module, "fit", lambda *_: pytest.fail("a probe is learned again"))
    again = [module_measure(made, bench) for module_measure in (perturbation.drops, spurious.removal)]
    assert [value(one, name) for one in first for name in one if isinstance(one[name], Sums)] == [
        value(one, name) for one in again for name in one if isinstance(one[name], Sums)]


def test_nothing_is_cut_that_does_not_speak_for_the_class():
    """A dictionary with a single latent along each class's axis: ten are asked for, and no other is cut with it."""
    bench = labelled()
    made = axes(list(range(D)))
    found = METRICS["targeted_perturbation"].measure(made, bench)
    with torch.no_grad():
        made.W_dec.mul_(-1)           # every effect is negative now, so that there is nothing to cut
    bench._codes.clear(), bench._matrices.clear()
    other = METRICS["targeted_perturbation"].measure(made, bench)
    assert value(found, "tpp_intended") > 0.2 and value(other, "tpp_intended") < value(found, "tpp_intended") / 4


def test_an_ablation_that_costs_nothing_leaves_its_share_undefined(reading):
    net, data, _ = reading
    cost = np.array([0.1, -0.2, 0.1, 0.05, -0.1])
    assert "no more than chance" in harmless(cost, np.ones(5)) and harmless(cost + 1, np.ones(5)) == ""
    lines = {line.name: line for line in cw.profile(a_dictionary(), net, data, tokens=2_000, metrics=["behaviour"]).lines}
    assert "the ablation costs" in lines["loss_lost"].verdict and not lines["ce_rise"].figure.undefined
    said = cw.evaluate(net, a_dictionary(), data, 1_000)["loss_recovered_zero"]
    assert np.isnan(said.value) and said.undefined.startswith("the ablation costs")


def test_a_figure_that_is_no_number_is_null_with_its_reason():
    nan = float("nan")
    figure = Figure("loss_recovered_zero", nan, nan, nan, 10, undefined="the ablation costs nothing")
    assert json.loads(json.dumps(figure.json(), allow_nan=False))["value"] is None
    assert str(figure) == "loss_recovered_zero is undefined, as the ablation costs nothing (10 tokens)"


def test_too_little_data_for_an_interval_is_no_verdict():
    bench = a_bench(numbers(50, D), groups=1)
    line = next(line for line in lines_of(METRICS["reconstruction"], a_dictionary(), bench, FACTS) if line.name == "mse")
    assert line.tells is None and line.verdict == "too little data for an interval" and not line.no_better_than


def test_lines_are_the_same_after_they_were_kept():
    bench = labelled()
    for metric in ("sparse_probing", "targeted_perturbation", "truth"):
        for line in lines_of(METRICS[metric], axes(list(range(D))), bench, FACTS):
            again = Line.read(json.loads(json.dumps(plain(asdict(line)))))
            assert repr(again) == repr(line)


def test_an_interrupted_profile_goes_on_where_it_stopped(reading, tmp_path, monkeypatch):
    net, data, _ = reading
    made, file, done = a_dictionary(), tmp_path / "unfinished.json", []
    ask = dict(tokens=1_000, metrics=["reconstruction", "firing", "weights"])
    plainly = cw.profile(made, net, data, **ask)
    measure = METRICS["firing"].measure

    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setitem(METRICS, "firing", replace(METRICS["firing"], measure=stop))
    with pytest.raises(KeyboardInterrupt):
        cw.profile(made, net, data, unfinished=file, **ask)
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished.json"]
    monkeypatch.setitem(METRICS, "firing", replace(METRICS["firing"], measure=measure))
    monkeypatch.setitem(METRICS, "reconstruction", replace(METRICS["reconstruction"], measure=lambda *_: done.append(1)))
    again = cw.profile(made, net, data, unfinished=file, **ask)
    assert not done and repr(again.lines) == repr(plainly.lines)
    monkeypatch.undo()
    file.write_text("{half")                                   # damaged from outside: everything is measured again
    assert repr(cw.profile(made, net, data, unfinished=file, **ask).lines) == repr(plainly.lines)
    other = cw.profile(a_dictionary(1), net, data, unfinished=file, **ask)
    assert other["mse"].figure != plainly["mse"].figure, "another dictionary has nothing in the file"


def test_a_part_of_a_profile_does_not_take_the_place_of_the_whole(reading):
    net, data, _ = reading
    whole, part = (cw.profile(a_dictionary(), net, data, tokens=1_000, metrics=metrics).json() for metrics in (
        ["reconstruction", "firing"], ["firing"]))
    both = joined(whole, part)
    assert {line["name"] for line in both["lines"]} == {line["name"] for line in whole["lines"]}
    assert set(both["metrics"]) == set(both["seconds_by_metric"]) == {"reconstruction@1", "firing@1"}
    other = cw.profile(a_dictionary(), net, data, tokens=600, metrics=["firing"]).json()
    assert joined(whole, other) is None and joined(part, other) is other and joined(None, part) is part


def test_dictionaries_of_other_targets_are_not_compared():
    from cutaway.dictionaries.transcoder import Transcoder
    one, other = (Transcoder(D, WIDTH, parts.TopK(K), Facts(site="a"), target=target) for target in ("b", "c"))
    bench = a_bench(numbers(100, D), others=(other,))
    with pytest.raises(ValueError, match=r"compared at one site; found a -> b of width 16 and a -> c of width 16"):
        stability.stability(one, bench)


def test_a_dictionary_goes_where_the_network_is():
    one = a_dictionary()
    assert moved_to(one, "cpu") is one
    assert {p.device.type for p in moved_to(one, "meta").parameters()} == {"meta"} and one.W_enc.device.type == "cpu"


def test_the_printed_profile_fits_into_80_columns(reading):
    from rich.console import Console

    from cutaway.report.profile import tables
    net, data, _ = reading
    found = cw.profile(a_dictionary(), net, data, tokens=2_000)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*tables(found), sep="\n")
    shown = console.export_text().splitlines()
    assert max(map(len, shown)) <= 80
    for line in found.lines:
        whole = [row for row in shown if line.name in row]
        assert whole or line.metric.startswith("truth"), f"{line.name} is cut in two or left out"
    row = next(row for row in shown if row.startswith("explained_variance ↑"))
    assert row.split()[2] == f"{found['explained_variance'].figure.value:.3f}".replace("-", "−")
    assert any("floor: random" in row for row in shown) and any("undefined: no dictionary of the same" in row for row in shown)
