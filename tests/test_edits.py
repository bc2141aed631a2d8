"""The gate, on every kind of network: what it changes, what it leaves alone, and that nothing of it stays behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from families import CAUSAL, CONTEXT, D_MODEL, MATRIX, N_HEADS, example, module, network, tokenizer
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway.network as cw
from cutaway.network.edit import Reference

# Sites of networks that have no row in the table, or of parts that no row names.
PATHS = {
    "gpt2": ["transformer.wte:out", "transformer.h.1.ln_1:weight", "transformer.h.1.mlp.c_fc:weight", "lm_head:weight"],
    "opt": ["model.decoder.layers.0.fc1:in", "model.decoder.layers.0.fc2:bias"],
    "llama": ["model.layers.1.self_attn.k_proj:out", "model.layers.1.mlp.up_proj:weight", "model.embed_tokens:weight"],
    "gemma2": ["model.layers.0.input_layernorm:weight"],
    "mixtral": ["model.layers.0.mlp.experts:down_proj", "model.layers.0.mlp.gate:weight"],
    "bert": ["bert.embeddings.word_embeddings:weight", "bert.encoder.layer.0.attention.self.query:weight"],
    "vit": ["vit.layers.1.mlp.fc1:weight", "classifier:in"],
    "resnet": ["resnet.encoder.stages.0.layers.0.layer.0.convolution:weight", "classifier.1:in"],
    "sentence": ["0.model.encoder.layer.0.output.dense:weight"],
    "cnn": ["conv1:in", "conv1:out", "conv1:weight", "bn1:weight", "act:out", "head:in", "head:bias"],
    "mlp": ["0:in", "1:out", "2:weight", "2:bias", "4:out"],
}


def sites(name: str) -> list[cw.Site]:
    net = network(name)
    return [site for site in [*net.named.values(), *map(net.site, PATHS[name])] if site.editable]


def output(net: cw.Network, x: Any) -> Tensor:
    with torch.no_grad():
        return net.logits(x)


def traces(net: cw.Network) -> dict[str, Any]:
    """Everything that an edit could leave behind in a network: hooks, attributes, configuration, class and weights."""
    parts: dict[str, Any] = {}
    for path, part in net.module.named_modules():
        hooks = [list(getattr(part, name)) for name in sorted(vars(part)) if "hook" in name and
                 isinstance(getattr(part, name), dict)]
        parts[path] = (type(part), hooks, sorted(vars(part)), {k: id(v) for k, v in part._parameters.items()})
        if hasattr(part, "config"):
            parts[f"{path}.config"] = repr(vars(part.config))
    return parts


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test on shared networks, they are as they were: state, hooks, attributes and configuration."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name is None:
        yield
        return
    net = network(name)
    before, weights = traces(net), {k: v.clone() for k, v in net.module.state_dict().items()}
    yield
    assert traces(net) == before
    after = net.module.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[k], v) for k, v in weights.items())
    assert net._touches.level == 0


# --- gate 1 and gate 0 ------------------------------------------------------------------------------------------------

def noise(z: Tensor, at: cw.At) -> Tensor:
    return torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)


@pytest.mark.parametrize("name", MATRIX)
def test_gate_1_is_bit_equal_at_every_site(name: str) -> None:
    net, x = network(name), example(name)
    plain = output(net, x)
    for site in sites(name):
        expected = plain
        if site.io == "pattern":  # an opened pattern is transformers' eager attention
            with net.watched({site: lambda p, at: None}):
                expected = output(net, x)
        for gate, over in [(1.0, ""), (torch.ones(site.n or 1), "u")]:
            with net.edited(cw.Edit(site, noise, gate, over)):
                assert torch.equal(output(net, x), expected), f"{site} over {over!r}"
    assert torch.equal(output(net, x), plain)


@pytest.mark.parametrize("name", MATRIX)
def test_gate_0_puts_the_reference_in_place_at_every_site(name: str) -> None:
    net, x = network(name), example(name)
    for site in sites(name):
        seen: list[Tensor] = []
        watcher = cw.Edit(site, lambda z, at, seen=seen: seen.append(z) or z, 1.0)
        with net.edited(cw.Edit(site, noise, 0.0), watcher):
            output(net, x)
        expected = noise(seen[0], cw.At())
        if site.name.endswith("experts"):  # an expert that a token does not visit has no weight there
            expected = expected * (seen[0] != 0)
        assert torch.equal(seen[0], expected), site.name


@pytest.mark.parametrize("name", MATRIX)
def test_gate_0_with_the_same_is_the_identity(name: str) -> None:
    net, x = network(name), example(name)
    for site in sites(name):
        with net.watched({site: lambda z, at: None}):
            plain = output(net, x)
        with net.edited(cw.Edit(site, cw.same)):
            assert torch.equal(output(net, x), plain), site.name


@pytest.mark.parametrize("name", MATRIX)
def test_every_site_has_an_effect(name: str) -> None:
    net, x = network(name), example(name)
    plain = output(net, x)
    for site in sites(name):
        with net.edited(cw.Edit(site, noise, 0.5)):
            assert not torch.allclose(output(net, x), plain), site.name
    assert torch.equal(output(net, x), plain)


@pytest.mark.parametrize("name", MATRIX)
def test_closing_one_unit_changes_that_unit_alone(name: str) -> None:
    net, x = network(name), example(name)
    for site in sites(name):
        if not site.n or site.name.endswith("experts"):  # an expert's weight is only there where a token visits it
            continue
        axis = site.cut.axes.index("u") - len(site.cut.axes)
        seen: list[Tensor] = []

        def keep(z: Tensor, at: cw.At, seen: list[Tensor] = seen) -> Tensor:
            seen.append(z.clone())
            return z

        gate = torch.ones(site.n).index_fill(0, torch.tensor(1), 0.0)
        with net.edited(cw.Edit(site, keep, 1.0), cw.Edit(site, gate=gate, over="u"), cw.Edit(site, keep, 1.0)):
            output(net, x)
        before, after = seen
        assert after.select(axis, 1).abs().max() == 0, site.name
        others = [i for i in range(site.n) if i != 1]
        index = torch.tensor(others)
        assert torch.equal(after.index_select(axis, index), before.index_select(axis, index)), site.name


# --- undone exactly ---------------------------------------------------------------------------------------------------

class Broken(Exception):
    pass


@pytest.mark.parametrize("name", MATRIX)
def test_nothing_stays_after_an_error(name: str) -> None:
    """In the block, in a reference, and an interruption from the keyboard, which Python does not count as an error."""
    net, x = network(name), example(name)
    before, plain = traces(net), output(net, x)

    def fails_with(error: type[BaseException]) -> Reference:
        def fails(z: Tensor, at: cw.At) -> Tensor:
            raise error
        return fails

    for site in sites(name):
        with pytest.raises(Broken), net.edited(cw.Edit(site)):
            output(net, x)
            raise Broken
        for error in (Broken, KeyboardInterrupt):
            with pytest.raises(error), net.edited(cw.Edit(site), cw.Edit(site, fails_with(error))):
                output(net, x)
            assert traces(net) == before, site.name
    assert torch.equal(output(net, x), plain)


@pytest.mark.parametrize("name", MATRIX)
def test_nested_edits_are_undone_in_order(name: str) -> None:
    net, x = network(name), example(name)
    first, second = sites(name)[0], sites(name)[-1]
    states = [traces(net)]
    plain = output(net, x)
    with net.edited(cw.Edit(first, gate=0.5)):
        states.append(traces(net))
        outer = output(net, x)
        with net.edited(cw.Edit(second, noise, 0.5), cw.Edit(first, noise, 0.5)):
            assert not torch.equal(output(net, x), outer)
        assert traces(net) == states[1]
        assert torch.equal(output(net, x), outer)
    assert traces(net) == states[0]
    assert torch.equal(output(net, x), plain) and not torch.equal(outer, plain)


def test_edits_at_one_site_work_in_the_order_in_which_they_were_put_in() -> None:
    net, x = network("mlp"), example("mlp")
    z = net.record(x, "1:out")["1:out"]

    def add_one(z: Tensor, at: cw.At) -> Tensor:
        return z + 1

    def double(z: Tensor, at: cw.At) -> Tensor:
        return 2 * z

    last = net.module[2:]
    with net.edited(cw.Edit("1:out", add_one)), net.edited(cw.Edit("1:out", double)):
        assert_close(output(net, x), last(2 * (z + 1)))
    with net.edited([cw.Edit("1:out", double), cw.Edit("1:out", add_one)]):
        assert_close(output(net, x), last(2 * z + 1))


@pytest.mark.parametrize("name", MATRIX)
def test_as_it_is_suspends_edits_but_not_what_is_put_in_later(name: str) -> None:
    net, x = network(name), example(name)
    plain = output(net, x)
    edits = [cw.Edit(site, noise, 0.5) for site in sites(name)]
    inner = sites(name)[0]
    with net.edited(cw.Edit(inner, gate=0.25)):
        expected = output(net, x)
    with net.edited(edits):
        edited = output(net, x)
        with net.as_it_is():
            assert torch.equal(output(net, x), plain)
            assert net.record(x, inner)
            with net.edited(cw.Edit(inner, gate=0.25)):
                assert torch.equal(output(net, x), expected)
                with net.as_it_is():
                    assert torch.equal(output(net, x), plain)
                assert torch.equal(output(net, x), expected)
            assert torch.equal(output(net, x), plain)
        assert torch.equal(output(net, x), edited)
    assert not torch.equal(edited, plain)


def test_a_reference_may_make_a_pass_of_its_own() -> None:
    """Resampling from another prompt: the outer pass still knows its own tokens and positions afterwards."""
    net, x, other = network("llama"), example("llama"), example("llama", seed=1)
    seen: list[Tensor] = []

    def resample(z: Tensor, at: cw.At) -> Tensor:
        with net.as_it_is():
            output(net, other)
            return net.record(other, "blocks.0")["blocks.0"]

    expected = output(net, other)
    with net.edited(cw.Edit("blocks.0", resample)), net.watched({"blocks.2": lambda z, at: seen.append(at.tokens)}):
        assert torch.equal(output(net, x), expected)
    assert torch.equal(seen[0], x)


# --- weights ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "path"), [
    ("gpt2", "transformer.h.1.mlp.c_fc"), ("llama", "model.layers.1.mlp.up_proj"),
    ("bert", "bert.encoder.layer.0.output.dense"), ("vit", "classifier"), ("cnn", "conv2"), ("mlp", "2")])
def test_closing_a_row_of_a_weight_is_zeroing_it_by_hand(name: str, path: str) -> None:
    net, x = network(name), example(name)
    by_hand = cw.open(copy.deepcopy(net.module))
    part = by_hand.module.get_submodule(path)
    with torch.no_grad():
        (part.weight.T if type(part).__name__ == "Conv1D" else part.weight)[3] = 0
    site = net.site(f"{path}:weight")
    gate = torch.ones(site.n).index_fill(0, torch.tensor(3), 0.0)
    with net.edited(cw.Edit(site, gate=gate, over="u")):
        assert torch.equal(output(net, x), output(by_hand, x))
    with net.edited(cw.Edit(site, gate=0.5)), net.edited(cw.Edit(site, gate=gate, over="u")):
        with torch.no_grad():
            part.weight.mul_(0.5)
        assert torch.equal(output(net, x), output(by_hand, x))


def test_a_tied_weight_is_edited_in_one_place_only() -> None:
    net, x = network("gpt2"), example("gpt2")
    assert net.module.lm_head.weight is net.module.transformer.wte.weight
    last, plain = net.record(x, "norm")["norm"], net.record(x, "embed")["embed"]
    with net.edited(cw.Edit("lm_head:weight", noise, 0.0)):
        assert torch.equal(net.record(x, "embed")["embed"], plain)
        assert_close(output(net, x), last @ noise(net.module.lm_head.weight, cw.At()).T)
    with net.edited(cw.Edit("transformer.wte:weight", gate=0.0)):
        assert_close(net.record(x, "embed")["embed"], net.module.transformer.wpe.weight[:10].expand(2, -1, -1))
        norm = net.record(x, "norm")["norm"]
        assert_close(output(net, x), norm @ net.module.lm_head.weight.T)


def test_a_weight_edit_follows_its_gate_while_the_gate_is_learned() -> None:
    net, x = network("mlp"), example("mlp")
    gate = torch.ones(12)
    with net.edited(cw.Edit("2:weight", gate=gate, over="u")):
        first = output(net, x)
        gate.zero_()
        assert not torch.equal(output(net, x), first)


# --- gates over named axes --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", MATRIX)
def test_a_batched_gate_equals_one_row_at_a_time(name: str) -> None:
    net, x = network(name), example(name, rows=3)
    for site in sites(name):
        if site.is_weight or not site.n or "b" not in site.cut.names(torch.empty([1] * 3)):
            continue
        gates = torch.rand(3, site.n, generator=torch.Generator().manual_seed(2)).round(decimals=1)
        with net.edited(cw.Edit(site, noise_by_unit, gates, "b u")):
            together = output(net, x)
        for row in range(3):
            with net.edited(cw.Edit(site, noise_by_unit, gates[row], "u")):
                assert_close(together[row], output(net, x[row:row + 1])[0], rtol=1e-4, atol=1e-5, msg=f"{site} {row}")


def noise_by_unit(z: Tensor, at: cw.At) -> Tensor:
    """Another value for each entry of a row, the same for all rows."""
    return noise(z[:1], at)


@pytest.mark.parametrize("over", ["t", "b t", "b t u", "t u", "u t", "u t b"])
def test_a_gate_by_position_closes_that_position_alone(over: str) -> None:
    net, x = network("llama"), example("llama")
    sizes = {"b": 2, "t": 10, "u": D_MODEL}
    gate = torch.rand([sizes[name] for name in over.split()], generator=torch.Generator().manual_seed(0))
    z = net.record(x, "blocks.1")["blocks.1"]
    with net.edited(cw.Edit("blocks.1", gate=gate, over=over)):
        after = net.record(x, "blocks.1")["blocks.1"]
    letters = over.replace(" ", "")
    assert_close(after, torch.einsum(f"btu,{letters}->btu", z, gate), msg=over)


def test_positions_that_a_gate_does_not_name_stay_open() -> None:
    net, x = network("llama"), example("llama")
    z = net.record(x, "blocks.1")["blocks.1"]
    with net.edited(cw.Edit("blocks.1", gate=torch.zeros(4), over="t")):
        after = net.record(x, "blocks.1")["blocks.1"]
    assert after[:, :4].abs().max() == 0 and torch.equal(after[:, 4:], z[:, 4:])


def test_channels_are_the_units_of_an_image_at_any_path() -> None:
    net, x = network("cnn"), example("cnn")
    gate = torch.ones(6).index_fill(0, torch.tensor(2), 0.0)
    expected = net.record(x, "conv2:in")["conv2:in"]
    expected[:, 2] = 0
    for site in ("act:out", "bn1:out", "conv2:in"):  # the second knows its units, the first learns them in the pass
        with net.edited(cw.Edit(site, gate=gate, over="u")):
            assert_close(net.record(x, "conv2:in")["conv2:in"], expected, msg=site)


# --- derivatives ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "vit", "resnet", "cnn", "mlp"])
def test_the_gradient_in_a_gate_is_its_finite_difference(name: str) -> None:
    net = cw.open(module(name).double())
    x = example(name)
    x = x.double() if x.is_floating_point() else x
    step = 1e-5
    for site in [site for site in sites(name) if site.n]:
        point = torch.linspace(0.2, 0.9, site.n, dtype=torch.float64)

        def loss(gate: Tensor, site: cw.Site = site) -> Tensor:
            with net.edited(cw.Edit(site, noise, gate, "u")):
                return net.logits(x).square().mean()

        gate = point.clone().requires_grad_()
        gradient, = torch.autograd.grad(loss(gate), gate)
        along = torch.sin(torch.arange(site.n, dtype=torch.float64))
        with torch.no_grad():
            slope = (loss(point + step * along) - loss(point - step * along)) / (2 * step)
        assert_close(gradient @ along, slope, rtol=1e-4, atol=1e-7, msg=f"{name} {site}: {gradient @ along} {slope}")


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_the_gradient_in_a_gate_agrees_with_a_wide_difference(name: str) -> None:
    """The same for families that norm and rotate in single precision, after the last choice of experts."""
    net, x, step = network(name), example(name), 1e-2
    start = "blocks.2.mlp.experts" if name == "mixtral" else "embed"
    names = list(net.named)[list(net.named).index(start):]
    for site in [site for site in map(net.site, names) if site.n and site.editable]:
        def loss(gate: Tensor, site: cw.Site = site) -> Tensor:
            with net.edited(cw.Edit(site, noise, gate, "u")):
                return net.logits(x).double().square().mean()

        gate = torch.full((site.n,), 0.6, requires_grad=True)
        gradient, = torch.autograd.grad(loss(gate), gate)
        with torch.no_grad():
            slope = (loss(gate + step) - loss(gate - step)) / (2 * step)
        assert_close(gradient.sum().double(), slope, rtol=2e-2, atol=2e-3, msg=f"{name} {site}")


# --- generation -------------------------------------------------------------------------------------------------------

def generation_edits(net: cw.Network) -> dict[str, list[cw.Edit]]:
    """Edits of units, of positions and of patterns, at the ends and in the middle of a network."""
    random = torch.Generator().manual_seed(3)
    late = torch.ones(CONTEXT)
    late[[2, 5, 12, 13, 15]] = 0.0
    heads = torch.tensor([0.0, 1.0, 0.3, 1.0])
    by_both = torch.rand(CONTEXT, D_MODEL, generator=random).round()

    def towards_the_past(p: Tensor, at: cw.At) -> Tensor:
        """Each query looks at the key before it; a cache with a window holds the last keys only."""
        keys = at.positions[-1] + 1 - p.shape[-1] + torch.arange(p.shape[-1])
        return (keys == (at.positions[:, None] - 1).clamp(min=0)).to(p).expand_as(p)

    edits = {
        "units": [cw.Edit("blocks.1.attn.heads", gate=heads, over="u"), cw.Edit("blocks.2.attn", gate=0.4)],
        "first positions": [cw.Edit("embed", noise_by_position, late, "t")],
        "later positions": [cw.Edit("blocks.1", noise_by_position, late, "t"),
                            cw.Edit("blocks.2.attn.heads", gate=late, over="t")],
        "positions and units": [cw.Edit("blocks.1.mlp", gate=by_both, over="t u")],
        "logits": [cw.Edit("logits", noise_by_position, late, "t")],
        "pattern": [cw.Edit("blocks.1.attn.pattern", towards_the_past, heads, "u"),
                    cw.Edit("blocks.2.attn.pattern", towards_the_past, late, "t")],
    }
    if "blocks.1.mlp.neurons" in net.named:
        edits["neurons"] = [cw.Edit("blocks.1.mlp.neurons", gate=late, over="t")]
    if "blocks.1.mlp.experts" in net.named:
        edits["experts"] = [cw.Edit("blocks.1.mlp.experts", gate=torch.tensor([0.0, 1.0, 0.5, 1.0]), over="u"),
                            cw.Edit("blocks.2.mlp.experts", gate=late, over="t")]
    return edits


TABLE = torch.randn(CONTEXT, 256, generator=torch.Generator().manual_seed(9))


def noise_by_position(z: Tensor, at: cw.At) -> Tensor:
    """A value for each absolute position and unit, whatever part of the text a pass holds."""
    return TABLE[at.positions[..., -z.shape[1]:], :z.shape[-1]]


@pytest.mark.parametrize("name", CAUSAL)
def test_cached_generation_is_uncached_generation(name: str) -> None:
    net, prompt = network(name), example(name, tokens=7)
    plain = net.generate(prompt, 8)
    assert torch.equal(plain, net.generate(prompt, 8, cache=False))
    for kind, edits in generation_edits(net).items():
        with net.edited(edits):
            cached, uncached = net.generate(prompt, 8), net.generate(prompt, 8, cache=False)
            edited = output(net, cached)
        assert torch.equal(cached, uncached), kind
        assert cached.shape == (2, 15)
        assert not torch.allclose(edited, output(net, cached)), kind


@pytest.mark.parametrize("name", CAUSAL)
def test_padded_prompts_give_the_tokens_of_each_prompt_alone(name: str) -> None:
    """A position counts from a row's first real token, so padding moves no edit."""
    net = network(name)
    prompts = ["w5 w9 w33 w21 w60 w8 w11", "w40 w3 w17", "w8"]
    for kind in ("units", "first positions", "later positions", "positions and units", "logits"):
        with net.edited(generation_edits(net)[kind]):
            alone = [net.generate(prompt, 8) for prompt in prompts]
            for cache in (True, False):
                assert net.generate(prompts, 8, cache=cache) == alone, f"{kind}, cache={cache}"


def test_generation_reads_every_token_that_it_is_given() -> None:
    """Token ids are taken as they are: the id that a tokenizer uses for padding is a token like others there."""
    net = network("llama")
    with_zero, other = torch.tensor([[5, 0, 9, 3]]), torch.tensor([[5, 7, 9, 3]])
    seen: list[Tensor] = []
    with net.watched({"blocks.0.attn.pattern": lambda p, at: seen.append(p)}):
        net.generate(with_zero, 1)
    assert seen[0][..., -1, 1].min() > 0
    assert torch.equal(net.generate(other, 3, cache=True), net.generate(other, 3, cache=False))


def test_sampling_is_the_same_for_the_same_seed() -> None:
    net, prompt = network("gpt2"), example("gpt2", tokens=4)
    state = torch.get_rng_state()
    first, again, other = (net.generate(prompt, 12, temperature=1.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# --- errors -----------------------------------------------------------------------------------------------------------

def wrong(shape: tuple[int, ...]) -> Reference:
    return lambda z, at: torch.zeros(shape)


@pytest.mark.parametrize(("name", "edit", "says"), [
    ("llama", cw.Edit("blocks.1", gate=torch.ones(31), over="u"), "has 31 values, but the site has 32 units"),
    ("llama", cw.Edit("blocks.1.attn.heads", gate=torch.ones(3), over="u"), f"3 values, .* has {N_HEADS} units"),
    ("llama", cw.Edit("blocks.1", gate=torch.ones(32)), "is said to be over ''"),
    ("llama", cw.Edit("blocks.1", gate=torch.ones(2, 3), over="u"), "is said to be over 'u'"),
    ("llama", cw.Edit("blocks.1", gate=torch.ones(4), over="h"), "at blocks.1: .* over 'h', but the site has the axes"),
    ("llama", cw.Edit("blocks.1", gate=torch.ones(3), over="b"), "at blocks.1: .* 3 values along 'b', but .* has 2"),
    ("vit", cw.Edit("blocks.1", gate=torch.ones(9), over="t"), "at blocks.1: .* 9 values along 't', but .* has 5"),
    ("vit", cw.Edit("logits", gate=torch.ones(9), over="t"), "at logits: .* over 't', but the site has the axes 'b u'"),
    ("mlp", cw.Edit("1", gate=torch.ones(2, 2), over="b t"), "but the site has the axes 'b u'"),
    ("cnn", cw.Edit("act:out", gate=torch.ones(9), over="u"), "at act:out: .* 9 values along 'u', but .* has 6"),
    ("llama", cw.Edit("blocks.1", wrong((2, 10, 31))), r"reference at blocks.1 has the shape \(2, 10, 31\)"),
    ("llama", cw.Edit("blocks.1", wrong((1, 2, 10, 32))), r"does not broadcast to the site's \(2, 10, 32\)"),
    ("mlp", cw.Edit("2:weight", wrong((5,))), "reference at 2:weight"),
    ("llama", cw.Edit("model.embed_tokens:in"), "model.embed_tokens:in holds torch.int64 values"),
    ("mixtral", cw.Edit("blocks.0.mlp.router"), "can be read but not edited.*blocks.0.mlp.experts"),
    ("llama", cw.Edit("blocks.9"), "there is no site 'blocks.9'"),
])
def test_a_wrong_edit_says_what_was_expected_and_what_was_found(name: str, edit: cw.Edit, says: str) -> None:
    net = network(name)
    with pytest.raises(ValueError, match=says), net.edited(edit):
        output(net, example(name))


@pytest.mark.parametrize(("act", "says"), [
    (lambda: network("bert").generate("w3"), "kind 'masked'; only causal"),
    (lambda: network("bert").logits("w3 w4"), "without a tokenizer"),
    (lambda: cw.open(nn.LSTM(3, 4)).logits(torch.ones(1, 2, 3)), "returns tuple, in which there are no logits"),
    (lambda: network("gpt2").record(example("gpt2"), ["norm", "transformer.drop:weight"]), "has no 'weight'"),
])
def test_a_wrong_question_gets_one_sentence(act: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        act()


def test_a_site_that_a_pass_does_not_reach_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(ValueError, match="did not reach idle"):
        cw.open(Idle()).record(torch.ones(1, 2), ["idle", "used"])


def test_numbers_serve_as_references() -> None:
    net, x = network("mlp"), example("mlp")
    with net.edited(cw.Edit("1", lambda z, at: 2.5)):
        assert_close(output(net, x), net.module[2:](torch.full((2, 16), 2.5)))


def test_half_precision_keeps_both_ends_exact() -> None:
    net, x = cw.open(module("llama").to(torch.bfloat16), tokenizer()), example("llama")
    plain = output(net, x)
    for site in [site for site in net.named.values() if site.editable and site.io != "pattern"]:
        with net.edited(cw.Edit(site, noise, torch.ones(site.n), "u")):
            assert torch.equal(output(net, x), plain), site.name
