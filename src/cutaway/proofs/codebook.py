"""A small transformer with codebooks in every layer learns a state machine: do codes stand for states, and control it?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import proof
from ..dictionaries.codebook import CodebookFeatures, Codebooks, Snapped
from ..network import Network, open
from .proof import Comparison, Proof, compare, say

STATES, EDGES, BASE, BEGIN = 40, 3, 10, 10       # a state is written as two digits; vocabulary: ten digits and begin
VISITS, WIDTH, BLOCKS, HEADS = 16, 64, 2, 4
CODES, STEPS, MORE, BATCH, RATE = 200, 600, 300, 32, 3e-3
SEEDS, EVALUATED, FORCED = (0, 1, 2), 256, 400
CLOSE = 0.05                                     # a loss of valid transitions that counts as none


@dataclass(frozen=True)
class Machine:
    """edges: [STATES, EDGES], where each state leads, all with the same chance."""

    edges: Tensor

    @property
    def next_digit(self) -> Tensor:
        """The true distribution [STATES, BASE] of the digit after a state."""
        return F.one_hot(self.edges // BASE, BASE).float().mean(1)

    def walk(self, n: int, generator: torch.Generator) -> Tensor:
        """States [n, VISITS] of random walks."""
        states = [torch.randint(STATES, (n,), generator=generator)]
        while len(states) < VISITS:
            states.append(self.edges[states[-1], torch.randint(EDGES, (n,), generator=generator)])
        return torch.stack(states, 1)

    def batches(self, count: int, seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            yield written(self.walk(BATCH, generator))


def machine(seed: int) -> Machine:
    """A machine with random edges, all different for a state."""
    generator = torch.Generator().manual_seed(seed)
    return Machine(torch.rand(STATES, STATES, generator=generator).topk(EDGES, dim=1).indices)


def written(states: Tensor) -> Tensor:
    """Token ids [n, 1 + 2 * visits] of states [n, visits]."""
    digits = torch.stack([states // BASE, states % BASE], 2).flatten(1)
    return F.pad(digits, (1, 0), value=BEGIN)


def network(seed: int) -> Network:
    """A GPT-NeoX of two blocks with random weights."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    torch.manual_seed(seed)
    return open(GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=BASE + 1, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, max_position_embeddings=64, bos_token_id=BEGIN, eos_token_id=BEGIN, pad_token_id=BEGIN)))


def train(known: Machine, net: Network, books: Codebooks | None, rate: float, steps: int, seed: int) -> None:
    """Let a network, and its codebooks where it has some, learn the machine's walks."""
    parameters = [*net.module.parameters(), *(books.parameters() if books else ())]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for step, ids in enumerate(known.batches(steps, seed)):
        seen: dict[str, Snapped] = {}
        with net.edited(*(books.edits(net, seen) if books else ())):
            logits = net.logits({"input_ids": ids})
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        (loss + sum((found.pull for found in seen.values()), torch.zeros(()))).backward()
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50, 3 * (1 - step / steps))
        optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


def learned(known: Machine, seed: int) -> tuple[Network, Codebooks, Network]:
    """A network with codebooks, these, and one without: the same network, trained on by as many steps either way."""
    plain, net = network(seed), network(seed)
    train(known, plain, None, RATE, STEPS, 10_000 + seed)
    net.module.load_state_dict(plain.module.state_dict())
    books = CodebookFeatures(net, codes=CODES)
    books.settle(net, {"input_ids": torch.cat(list(known.batches(2, 20_000 + seed)))}, seed)
    train(known, net, books, RATE / 3, MORE, 30_000 + seed)
    train(known, plain, None, RATE / 3, MORE, 30_000 + seed)
    return net, books, plain


@torch.no_grad()
def valid(net: Network, books: Codebooks | None, known: Machine, seed: int) -> float:
    """Share of sampled steps, two digits after a walk's last state, that lead where the machine may go."""
    generator = torch.Generator().manual_seed(seed)
    states = known.walk(EVALUATED, generator)
    ids = written(states)
    for _ in range(2):
        with net.edited(*(books.edits(net) if books else ())):
            chance = net.logits({"input_ids": ids})[:, -1, :BASE].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(chance, 1, generator=generator)], 1)
    reached = ids[:, -2] * BASE + ids[:, -1]
    return float((known.edges[states[:, -1]] == reached[:, None]).any(1).float().mean())


def best_f1(fires: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """For each state the F1 [STATES] of the column of fires [n, m] that tells it best, and which that is."""
    on = F.one_hot(state, STATES).float()
    both, said, true = on.T @ fires.float(), fires.float().sum(0), on.sum(0)
    return (2 * both / (said + true[:, None]).clamp(min=1)).max(1)


@torch.no_grad()
def codes_of(net: Network, books: Codebooks, known: Machine, seed: int) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
    """Which code each site and group writes at the second digit of each state of some walks [n], and the states [n]."""
    states = known.walk(EVALUATED, torch.Generator().manual_seed(seed))
    seen: dict[str, Snapped] = {}
    with net.edited(*books.edits(net, seen)):
        net.logits({"input_ids": written(states)})
    return {(site, group): found.ids[:, 2::2, group, 0].flatten() for site, found in seen.items()
            for group in range(found.ids.shape[2])}, states.flatten()


@torch.no_grad()
def neurons_of(net: Network, known: Machine, seed: int) -> tuple[Tensor, Tensor]:
    """Activations [n, neurons] of all MLP neurons at the second digit of each state, and the states [n]."""
    states = known.walk(EVALUATED, torch.Generator().manual_seed(seed))
    names = [f"blocks.{i}.mlp.neurons" for i in range(BLOCKS)]
    found = net.record({"input_ids": written(states)}, names)
    return torch.cat([found[name][:, 2::2].flatten(0, 1) for name in names], 1), states.flatten()


def neurons_f1(net: Network, known: Machine, seed: int) -> float:
    """F1 of the best neuron for each state, at the best of nine thresholds of each, both chosen on other walks."""
    x, state = neurons_of(net, known, seed)
    levels = torch.quantile(x, torch.linspace(0.5, 0.98, 9), dim=0)
    tried = [best_f1(x > level, state) for level in levels]
    best = torch.stack([f1 for f1, _ in tried]).argmax(0)
    x, state = neurons_of(net, known, seed + 1)
    chosen = torch.stack([tried[int(best[s])][1][s] for s in range(STATES)])
    fires = x[:, chosen] > torch.stack([levels[int(best[s]), chosen[s]] for s in range(STATES)])
    return float(_own_f1(fires, state).mean())


def _own_f1(fires: Tensor, state: Tensor) -> Tensor:
    """F1 [STATES] of column s for state s."""
    on = F.one_hot(state, STATES).bool()
    return 2 * (fires & on).sum(0) / (fires.sum(0) + on.sum(0)).clamp(min=1)


@torch.no_grad()
def forced(net: Network, books: Codebooks, known: Machine, site: tuple[str, int], code: Tensor,
           seed: int) -> tuple[float, float]:
    """Total variation of the next digit's distribution to the true one of a target state: with its code, and another's.

    code: [STATES], each state's code at the site. The code is forced at the last token of a walk that ends elsewhere.
    """
    generator = torch.Generator().manual_seed(seed)
    states = known.walk(FORCED, generator)
    target, other = (torch.randint(STATES, (FORCED,), generator=generator) for _ in range(2))

    def distance(wanted: Tensor) -> float:
        def choose(name: str, ids: Tensor) -> Tensor:
            if name == site[0]:
                ids = ids.clone()
                ids[:, -1, site[1], 0] = code[wanted]
            return ids
        with net.edited(*books.edits(net, None, choose)):
            chance = net.logits({"input_ids": written(states)})[:, -1, :BASE].softmax(-1)
        return float((chance - known.next_digit[target]).abs().sum(1).mean() / 2)
    return distance(target), distance(other)


def figures(seed: int) -> dict[str, float]:
    """Everything that is measured for one seed."""
    known = machine(seed)
    net, books, plain = learned(known, seed)
    ids, state = codes_of(net, books, known, 500)
    told = {site: best_f1(F.one_hot(found, CODES), state) for site, found in ids.items()}
    site = max(told, key=lambda key: float(told[key][0].mean()))
    code = told[site][1]
    fresh, state = codes_of(net, books, known, 600)
    ours, others = forced(net, books, known, site, code, 700)
    return {"valid": valid(net, books, known, 800), "valid, no codebooks": valid(plain, None, known, 800),
            "f1": float(_own_f1(fresh[site][:, None] == code, state).mean()), "f1, neurons": neurons_f1(plain, known, 500),
            "f1, own neurons": neurons_f1(net, known, 500), "distinct": len(code.unique()) / STATES,
            "distance": ours, "distance, another's code": others, "site": list(ids).index(site)}


@proof("codebook")
def state_machine() -> Proof:
    """Codes stand for states, and forcing one moves the output to its state's distribution."""
    rows = []
    for seed in SEEDS:
        rows.append(figures(seed))
        say(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in rows[-1].items()))
    return concluded(rows)


def concluded(rows: list[dict[str, float]]) -> Proof:
    """The proof from each seed's figures."""
    def against(ours: str, theirs: str, method: str, baseline: str, figure: str, better: str) -> Comparison:
        return compare(method, baseline, figure, [row[ours] for row in rows], [row[theirs] for row in rows], better)

    lost = float(np.mean([row["valid, no codebooks"] - row["valid"] for row in rows]))
    distinct = float(np.mean([row["distinct"] for row in rows]))
    return Proof(
        "codebook", "A small transformer with codebooks on a state machine gives states codes of their own, and forcing a code "
        "moves the output to that state's distribution.",
        comparisons=(
            against("f1", "f1, neurons", "best code of each state", "best neuron of a network without codebooks", "F1",
                    "higher"),
            against("distance", "distance, another's code", "the target state's code forced", "a random state's code forced",
                    "total variation to the target's next digit", "lower")),
        checks={f"valid transitions are at most {CLOSE:.0%} fewer than without codebooks": lost <= CLOSE,
                "at least 80% of the states have a code that is no other state's": distinct >= 0.8},
        beside=(against("valid", "valid, no codebooks", "codebooks", "none", "share of valid transitions", "higher"),
                against("f1", "f1, own neurons", "best code of each state", "best neuron of the same network", "F1", "higher")),
        figures={"by_seed": rows, "transitions lost": lost, "distinct": distinct},
        n={"states": STATES, "edges of each": EDGES, "walks scored": EVALUATED, "walks forced": FORCED,
           "training walks": (STEPS + MORE) * BATCH}, seeds=SEEDS,
        notes=(f"A GPT-NeoX of {BLOCKS} blocks of width {WIDTH} and codebooks of {CODES} codes, k 1, for each head and each "
               "MLP, which begin at k-means of a trained network and learn with it; the baseline learns on without them. "
               "Codes, their site, neurons and thresholds are chosen on other walks than they are scored on; the code is "
               "forced at one site, at the last token of a walk.",
               "Smaller than the paper: 4 blocks of width 128, 1,000 codes, 100 states of 10 edges and 20,000 steps there. "
               "No language model was trained.")
    ).unless(f"Likely why: transitions lost {lost:.1%}, states with a code of their own {distinct:.0%}, distance to the "
             f"target's distribution {np.mean([row['distance'] for row in rows]):.2f}.")
