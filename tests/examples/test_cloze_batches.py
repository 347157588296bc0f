import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.tokenizer import Vocabulary
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, masking
from ralm_jax.examples.features import NULL
from ralm_jax.training.tasks import InverseCloze, Realm

CLS, SEP, MASK, NONE = 2, 3, 4, -2
LENGTHS = Lengths(query=8, passage=16, joint=18, masked=3)
HELD_OUT = 0.3

# Two passages; the first has a title and three sentences of 3, 7 and 2 wordpieces.
TOKENS = np.array([[10, *range(20, 32)], [*range(50, 54), *[0] * 9]], np.uint16)
CORPUS = Corpus(
    Path("by-hand"),
    Vocabulary(0, 1, CLS, SEP, MASK, 100, np.zeros(100, bool)),
    True,
    16,
    "",
    {},
    ("name",),
    TOKENS,
    lengths=np.array([[1, 12], [0, 4]], np.uint16),
    ids=np.zeros(2, "S32"),
    sentences=np.array([[0, 0, 3], [0, 3, 10], [0, 10, 12], [1, 0, 4]], np.int32),
    # sentence, start, stop (in the body), kind: the second sentence is 23...29, 6 of which fit
    spans=np.array([[1, 3, 4, 0], [1, 8, 9, 0], [1, 9, 10, 0], [3, 0, 4, 0]], np.int32),
    span_groups=np.array([1 << 62, 3 << 62, 1 << 62, 7], np.uint64),
)


def every(tokens, spans, vocabulary, generator):
    """A mask that hides whatever lies in any span."""
    mask = np.zeros(len(tokens), bool)
    for start, stop in spans:
        mask[start:stop] = True
    return mask


def clozes(rows, mask=every, seed=0, positions=None, corpus=CORPUS, lengths=LENGTHS):
    positions = np.arange(len(rows)) if positions is None else positions
    return cloze_batches.clozes(corpus, np.asarray(rows), positions, mask, lengths, seed)


def test_a_long_sentence_is_cut_and_so_are_its_spans():
    found = clozes([1])
    assert found.query.tokens.tolist() == [[CLS, MASK, 24, 25, 26, 27, MASK, SEP]]
    assert found.positions.tolist() == [[1, 6, 0]]
    assert found.targets.tolist() == [[23, 28, 0]]
    assert found.weights.tolist() == [[1, 1, 0]]
    assert found.passages.tolist() == [0]
    assert {x.dtype.name for x in (found.positions, found.targets)} == {"int32"}
    assert found.weights.dtype == np.float32


def test_masked_tokens_beyond_m_stay_hidden_and_do_not_count():
    found = clozes([3])
    assert found.query.tokens.tolist() == [[CLS, MASK, MASK, MASK, MASK, SEP, 0, 0]]
    assert found.positions.tolist() == [[1, 2, 3]] and found.targets.tolist() == [[50, 51, 52]]
    assert found.weights.tolist() == [[1, 1, 1]]


def test_a_sentence_without_a_mask_counts_for_nothing():
    found = clozes([0])
    assert found.query.tokens.tolist() == [[CLS, 20, 21, 22, SEP, 0, 0, 0]]
    assert not found.weights.any() and not found.targets.any() and not found.positions.any()


def test_the_spans_of_a_sentence_are_found_without_a_copy_of_all_spans(tmp_path):
    """Sentence n has two spans, in a table that is memory-mapped as that of a prepared corpus is."""
    n = 500_000
    spans = np.zeros((2 * n, 4), np.int32)
    spans[:, 0], spans[1::2, 1], spans[:, 2] = np.arange(2 * n) // 2, 3, 5
    np.save(tmp_path / "spans.npy", spans)
    mapped = np.load(tmp_path / "spans.npy", mmap_mode="r")
    sentences = np.broadcast_to(np.array([0, 1, 9], np.int32), (n, 3))
    corpus = dataclasses.replace(CORPUS, spans=mapped, sentences=sentences)
    tracemalloc.start()
    for row in (0, n // 2, n - 1):
        assert cloze_batches.sentence_spans(corpus, row, 8).tolist() == [[-1, 4], [2, 4]]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The column alone is 4 MB.
    assert peak < 1 << 18


def test_spans_beyond_the_query_make_no_query():
    assert cloze_batches.with_span(CORPUS, 8).tolist() == [False, True, False, True]
    assert cloze_batches.with_span(CORPUS, 5).tolist() == [False, True, False, False]
    assert cloze_batches.with_span(CORPUS, 6).tolist() == [
        False,
        True,
        False,
        True,
    ]  # L - 2 = 4 pieces
    only = dataclasses.replace(CORPUS, spans=CORPUS.spans[2:3], span_groups=CORPUS.span_groups[2:3])
    assert (
        not cloze_batches.with_span(only, 8).any() and cloze_batches.with_span(only, 9).tolist()[1]
    )


@pytest.mark.parametrize("found", [[[1, 0, NONE]], [[NONE, NONE, 0]]])
def test_candidates_become_texts_behind_the_null_passage(found):
    chosen = np.array([[NULL, *found[0]]])
    asked = clozes([1])
    batch = cloze_batches.with_candidates(CORPUS, asked, chosen, LENGTHS)
    assert batch.valid.tolist() == [[True, *(row != NONE for row in found[0])]]
    assert batch.query is asked.query and batch.targets is asked.targets
    front = asked.query.tokens[0].tolist()
    for k, row in enumerate(chosen[0]):
        title, body = {0: ([10], list(range(20, 32))), 1: ([], [50, 51, 52, 53])}.get(row, ([], []))
        whole = [CLS, *title, SEP, *body, SEP]
        assert batch.candidates.tokens[0, k].tolist() == [*whole, *[0] * (16 - len(whole))]
        whole = [*front, *body[: 18 - 8 - 1], SEP]
        assert batch.joint.tokens[0, k].tolist() == [*whole, *[0] * (18 - len(whole))]
        # Where a token is to be predicted, the joint text has a mask too.
        assert (batch.joint.tokens[0, k][batch.positions[batch.weights > 0]] == MASK).all()


def test_own_passage_and_missing_neighbours_are_dropped():
    found = np.array([[5, 7, 9, 4], [7, 5, -1, -1], [-1, -1, -1, -1], [1, 2, 3, 4]])
    own = np.array([7, 7, 0, 9])
    assert cloze_batches.candidates(found, own, 4).tolist() == [
        [NULL, 5, 9, 4],
        [NULL, 5, NONE, NONE],
        [NULL, NONE, NONE, NONE],
        [NULL, 1, 2, 3],
    ]
    assert cloze_batches.candidates(found, None, 3)[:2].tolist() == [[NULL, 5, 7], [NULL, 7, 5]]
    # Fewer neighbours than places.
    assert cloze_batches.candidates(found[:1, :2], own[:1], 5).tolist() == [
        [NULL, 5, NONE, NONE, NONE]
    ]
    assert cloze_batches.candidates(found, own, 4).dtype == np.int32


def test_in_warm_up_the_own_passage_is_always_there_once():
    found, own = np.array([[5, 7, 9, 4], [7, 5, -1, -1], [3, 2, 1, 9]]), np.array([7, 8, 9])
    wanted = [[NULL, 5, 7, 9], [NULL, 7, 5, 8], [NULL, 3, 2, 9]]
    assert cloze_batches.candidates_with_own(found, own, 4).tolist() == wanted
    assert not (cloze_batches.candidates(found, own, 4) == own[:, None]).any()


def test_what_a_passage_needs_by_hand():
    """One sentence of 4 wordpieces asks; three are special."""
    one = dataclasses.replace(CORPUS, sentences=CORPUS.sentences[-1:])

    def needed(corpus, titles, query=20, joint=99):
        return cloze_batches.needed(corpus, Lengths(query, 20, joint), titles=titles).tolist()

    assert needed(one, titles=False) == [12 + 4 + 3, 4 + 4 + 3]
    assert needed(one, titles=False, query=5) == [12 + 3 + 3, 4 + 3 + 3]
    assert needed(one, titles=True, joint=18) == [18, 11]
    long = dataclasses.replace(one, lengths=np.array([[6, 7], [0, 4]], np.uint16))
    assert needed(long, titles=True) == [7 + 6 + 3, 11]
    many = dataclasses.replace(CORPUS, lengths=np.array([[0, 10]] * 99, np.uint16))
    assert set(needed(many, titles=False)) == {10 + 3 + n for n in (2, 3, 4, 7)}


def test_the_order_is_a_pure_function_of_seed_and_step():
    rows = np.arange(100, 150)
    draws = [cloze_batches.draw(rows, seed, step, 8) for seed in (0, 0, 1) for step in (3, 11)]
    for again, first in zip(draws[2:4], draws[:2], strict=True):
        np.testing.assert_array_equal(again, first)
    assert (draws[4][0] != draws[0][0]).any()
    assert draws[0][1].tolist() == list(range(24, 32))


def test_an_epoch_asks_every_sentence_once_and_the_next_in_another_order():
    rows = np.arange(100, 150)
    asked = np.concatenate([cloze_batches.draw(rows, 0, step, 10)[0] for step in range(10)])
    first, second = asked[:50], asked[50:]
    assert sorted(first) == sorted(second) == rows.tolist()
    assert (first != second).any()


@pytest.mark.parametrize(
    "mask", [masking.salient_span, masking.random_span, masking.random_uniform]
)
def test_examples_do_not_depend_on_the_batch_they_are_in(tiny, mask):
    """Else processes, which make their own rows each, would make other examples than one alone."""
    corpus, lengths = tiny.corpus, Lengths(20, 60, 72, 4)
    rows, positions = np.arange(12), np.arange(12) + 40
    whole = clozes(rows, mask, 5, positions, corpus, lengths)
    again = clozes(rows, mask, 5, positions, corpus, lengths)
    half = clozes(rows[6:], mask, 5, positions[6:], corpus, lengths)
    np.testing.assert_array_equal(whole.query.tokens, again.query.tokens)
    np.testing.assert_array_equal(whole.query.tokens[6:], half.query.tokens)
    np.testing.assert_array_equal(whole.targets[6:], half.targets)
    options = {"mask": mask, "mask_share": 0.5, "keep_share": 0.5}
    pairs = [
        cloze_batches.inverse_cloze_pairs(corpus, rows[i:], positions[i:], lengths, 5, **options)
        for i in (0, 6)
    ]
    np.testing.assert_array_equal(pairs[0].query.tokens[6:], pairs[1].query.tokens)
    np.testing.assert_array_equal(pairs[0].passages.tokens[6:], pairs[1].passages.tokens)


def test_the_masked_sentence_and_its_targets_are_the_sentence(tiny):
    corpus, lengths, rows = tiny.corpus, Lengths(20, 60, 72, 4), np.arange(60)
    found = clozes(rows, masking.salient_span, corpus=corpus, lengths=lengths)
    for i, row in enumerate(rows):
        tokens, used = found.query.tokens[i].copy(), found.weights[i] > 0
        tokens[found.positions[i][used]] = found.targets[i][used]
        sentence = cloze_batches.sentence_tokens(corpus, row)
        assert tokens[: len(sentence) + 2].tolist() == [CLS, *sentence, SEP]
        assert used.any()


def test_inverse_cloze_takes_the_sentence_out_of_its_passage():
    rows, positions = np.array([0, 1, 2]), np.arange(3)
    pair = cloze_batches.inverse_cloze_pairs(CORPUS, rows, positions, LENGTHS, 0, keep_share=0)
    assert pair.query.tokens.tolist() == [
        [CLS, 20, 21, 22, SEP, 0, 0, 0],
        [CLS, 23, 24, 25, 26, 27, 28, SEP],
        [CLS, 30, 31, SEP, 0, 0, 0, 0],
    ]
    bodies = [range(23, 32), [20, 21, 22, 30, 31], range(20, 30)]
    for tokens, body in zip(pair.passages.tokens[:, 0].tolist(), bodies, strict=True):
        whole = [CLS, 10, SEP, *body, SEP]
        assert tokens == [*whole, *[0] * (16 - len(whole))]
    assert pair.rows.tolist() == [[0], [0], [0]] and pair.rows.dtype == np.int32
    last = cloze_batches.inverse_cloze_pairs(CORPUS, np.array([3, 1]), positions[:2], LENGTHS, 0)
    assert last.rows.tolist() == [[1], [0]]
    kept = cloze_batches.inverse_cloze_pairs(CORPUS, rows, positions, LENGTHS, 0, keep_share=1)
    assert (kept.passages.tokens == [CLS, 10, SEP, *range(20, 32), SEP]).all()


def test_inverse_cloze_keeps_and_masks_the_asked_shares():
    n = 2000
    pair = cloze_batches.inverse_cloze_pairs(
        CORPUS, np.ones(n, int), np.arange(n), LENGTHS, 0,
        keep_share=0.1, mask=masking.salient_span, mask_share=0.5,
    )  # fmt: skip
    kept, hidden = (pair.passages.tokens[:, 0, 3:] == 23).any(1), (pair.query.tokens == MASK).sum(1)
    assert 0.08 < kept.mean() < 0.12 and 0.46 < (hidden > 0).mean() < 0.54
    assert set(hidden) == {0, 1}  # of two spans that fit, one at a time
    assert set(pair.query.tokens[:, 6]) == {28, MASK} and set(pair.query.tokens[:, 1]) == {23, MASK}
    assert 0.3 < hidden[kept].mean() < 0.7  # the two draws are independent


def test_the_same_facts_are_held_out_whatever_the_run():
    groups = np.random.default_rng(0).integers(0, 1 << 64, 20_000, np.uint64)
    few, more = (cloze_batches.held_out(groups, share) for share in (0.01, HELD_OUT))
    assert abs(few.mean() - 0.01) < 0.003 and abs(more.mean() - HELD_OUT) < 0.01
    assert more[few].all()
    assert not cloze_batches.held_out(groups, 0).any() and cloze_batches.held_out(groups, 1).all()


TASKS = [
    InverseCloze(lengths=LENGTHS),
    InverseCloze(lengths=Lengths(20, 60, 72, 4), mask=masking.salient_span, mask_share=0.5),
    Realm(lengths=Lengths(20, 60, 72, 4), freeze_retriever=True, own_passage=True),
    Realm(lengths=Lengths(20, 60, 72, 4)),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_no_stage_asks_what_is_held_out(tiny, task):
    corpus = tiny.corpus
    out = cloze_batches.held_out(corpus.span_groups, HELD_OUT)
    facts = set(corpus.span_groups[out].tolist())
    assert 0.2 < len(facts) / len(set(corpus.span_groups.tolist())) < 0.4
    usable = task.queries(corpus, HELD_OUT)
    steps = 2 * len(usable.rows) // 16 + 1
    drawn = {
        int(r) for step in range(steps) for r in cloze_batches.draw(usable.rows, 0, step, 16)[0]
    }
    assert drawn == set(usable.rows.tolist())
    asked = set(corpus.span_groups[np.isin(corpus.spans[:, 0], list(drawn))].tolist())
    assert asked and not asked & facts
    # Both statements of a held-out fact stay in the passages that are searched.
    assert cloze_batches.held_out_sentences(corpus, HELD_OUT).sum() == 2 * len(facts)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_every_sentence_is_asked_or_counted(tiny, task):
    usable = task.queries(tiny.corpus, HELD_OUT)
    assert len(usable.rows) + sum(usable.left_out.values()) == len(tiny.corpus.sentences)


def test_the_only_sentence_of_a_passage_is_no_inverse_cloze():
    usable = InverseCloze(lengths=LENGTHS).queries(CORPUS, 0.0)
    assert usable.rows.tolist() == [0, 1, 2]
    assert usable.left_out["the only sentence of its passage"] == 1
    usable = InverseCloze(lengths=LENGTHS, mask=masking.salient_span).queries(CORPUS, 0.0)
    assert usable.rows.tolist() == [1]
    assert Realm(lengths=LENGTHS).queries(CORPUS, 0.0).rows.tolist() == [1, 3]


def test_nothing_left_to_ask_is_an_error():
    with pytest.raises(UserError, match="no sentence of by-hand can be a query"):
        Realm(lengths=LENGTHS).queries(CORPUS, 1.0)
