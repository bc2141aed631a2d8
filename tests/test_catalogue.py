"""The catalogue: every method says what it is, and a decorator is all that it takes to be in it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway import catalogue
from cutaway.catalogue import ROOMS, find, method, methods, proof, proofs
from cutaway.proofs import Proof, compare, read

KEPT = Path(__file__).parents[1] / "proofs" / "results"
READING = {"tokens", "batch_size", "seed", "progress"}  # options of every pass over data, explained with `exact`
PAPER = re.compile(r"arXiv:? ?\d{4}\.\d{4,5}|\b(19|20)\d\d\b|https?://")


@pytest.fixture
def registers(monkeypatch):
    """The catalogue as it is, in copies that a test may add to."""
    proofs(), methods()
    monkeypatch.setattr(catalogue, "_methods", dict(catalogue.methods()))
    monkeypatch.setattr(catalogue, "_proofs", dict(catalogue.proofs()))


def documented(function: Callable) -> str:
    """A method's docstring, and for scores that share a pass the pass's."""
    return "\n".join(filter(None, (inspect.getdoc(function), inspect.getdoc(getattr(function, "sweep", None)))))


@pytest.mark.parametrize("id", sorted(methods()))
def test_a_method_says_what_it_is_and_explains_its_options(id):
    m = methods()[id]
    assert m.id == id and m.title and m.summary.endswith((".", ":")) and m.summary != m.title
    assert m.family in ROOMS and m.object.__module__.startswith(ROOMS[m.family])
    assert re.fullmatch(r"[a-z0-9_-]+", id)
    text = documented(m.object)
    options = {name for name, p in m.signature.parameters.items() if p.default is not inspect.Parameter.empty}
    silent = {name for name in options - READING if not re.search(rf"\b{name}\b", text)}
    assert not silent, f"{id} does not explain {silent}"
    own = set(m.signature.parameters) | set(inspect.signature(inspect.unwrap(m.object)).parameters)
    said = set(re.findall(r"(?:^|[.;] )([a-z_][a-z0-9_]*): ", inspect.getdoc(m.object), re.MULTILINE))
    assert said <= own, f"{id} explains {said - own}, which it does not take"


@pytest.mark.parametrize("id", sorted(methods()))
def test_a_method_names_its_paper_or_has_none(id):
    m = methods()[id]
    assert m.paper == "" or PAPER.search(m.paper), m.paper
    assert m.roster is None or (m.roster.isdigit() and m.paper)


def test_no_two_methods_answer_for_one_system():
    numbers = [m.roster for m in methods().values() if m.roster]
    assert len(numbers) == len(set(numbers))


def test_options_that_every_pass_has_are_explained_once():
    text = documented(find("exact").object)
    assert {"tokens", "seed", "batch_size"} <= set(re.findall(r"\w+", text))


def test_families_divide_the_methods():
    parts = [set(methods(family)) for family in ROOMS]
    assert all(parts) and sum(map(len, parts)) == len(methods()) and set.union(*parts) == set(methods())


def test_find_names_the_nearest():
    with pytest.raises(ValueError, match="no family of methods called 'scores'.*score"):
        methods("scores")
    assert find("topk").roster == "237" and find("k-sparse", "dictionary").roster == "244"
    with pytest.raises(ValueError, match="no method called 'top-k'; the nearest are .*topk"):
        find("top-k")
    with pytest.raises(ValueError, match="no dictionary called 'fisher'"):
        find("fisher", "dictionary")


def test_a_third_party_s_decorator_is_enough(registers):
    @method("halve", family="edit", title="Halving", paper="arXiv 0000.00000", roster="9999")
    def halve(site: str, share: float = 0.5) -> float:
        """Keep a share of a site.

        share: how much is kept.
        """
        return share

    @proof("halve")
    def shown() -> Proof:
        """Halving halves."""
        return Proof("halve", "Halving halves.", (compare("halve", "nothing", "size", [1, 1], [2, 2.1]),))

    assert methods("edit")["halve"].object is halve is methods()["halve"].object
    assert find("halve").summary == "Keep a share of a site." and list(find("halve").signature.parameters) == ["site", "share"]
    assert find("halve").proof is shown is proofs()["halve"]
    assert "halve" not in methods("score")


def test_an_id_belongs_to_one_method(registers):
    @method("mine", family="edit", title="First")
    def first() -> None: ...

    with pytest.raises(ValueError, match="two methods are called 'mine'"):
        @method("mine", family="edit", title="Second")
        def second() -> None: ...
    assert method("mine", family="edit", title="Again")(first) is first, "a module that is read again is no second method"


def test_the_first_methods_have_proofs():
    assert {"topk", "k-sparse", "score-trust"} <= set(proofs())
    assert find("topk").proof and find("k-sparse").proof and find("relu-l1").proof is None
    assert all(inspect.getdoc(function) for function in proofs().values())


def test_kept_results_can_be_read_and_say_how_they_were_made():
    for id, kept in read(KEPT).items():
        assert kept.id == id and id in proofs() and kept.command == f"cutaway prove {id}"
        assert kept.comparisons and kept.seconds > 0 and kept.versions["torch"] and kept.time
        assert len(kept.seeds) >= 3 and all(len(part.ours) == len(kept.seeds) for part in kept.comparisons)
        stated = json.loads((KEPT / f"{id}.json").read_text())
        assert stated["holds"] == kept.holds
        again = [compare(c.method, c.baseline, c.figure, c.ours, c.theirs, c.better) for c in kept.comparisons]
        assert [c.difference for c in again] == pytest.approx([c.difference for c in kept.comparisons])
        assert [c.holds for c in again] == [c.holds for c in kept.comparisons]
