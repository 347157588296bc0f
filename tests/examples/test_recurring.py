"""Spans that recur in other passages: by hand, and against a count in loops."""

import collections
import itertools
import json

import numpy as np
import pytest

from ralm_jax.bm25s_without_jax import STOPWORDS_EN_PLUS
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches
from ralm_jax.examples.recurring import FREQUENT, Recurring

TEXTS = [
    "Hidden boundary layers of a swept wing were measured in 1957. We saw 12 of them.",
    "A swept wing has boundary layers too. It was measured with 12 probes in 1957.",
    "Nothing of that kind is said here, but of a bent keel.",
    "Plain words without any meaning stand alone. Other sentences follow behind.",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return corpus_of(tmp_path_factory.mktemp("recurring"), TEXTS)


def corpus_of(folder, texts):
    lines = [json.dumps({"id": str(i), "title": "", "text": text}) for i, text in enumerate(texts)]
    (folder / "texts.jsonl").write_text("\n".join(lines), "utf-8")
    prepare(str(folder / "texts.jsonl"), folder / "corpus", vocab_size=400, say=lambda line: None)
    return open_corpus(folder / "corpus")


def spans(corpus):
    """The passage and the words of each span, as texts."""
    tokenizer, found = corpus.tokenizer(), []
    for sentence, start, stop, _ in corpus.spans:
        passage = int(corpus.sentences[sentence, 0])
        title = int(corpus.lengths[passage, 0])
        pieces = corpus.tokens[passage, title + start : title + stop]
        found.append((passage, tokenizer.decode(pieces.tolist())))
    return found


def test_by_hand(made):
    found = Recurring()(made).corpus
    texts = collections.defaultdict(set)
    for passage, text in spans(found):
        texts[text].add(passage)
    # "swept" and "wing" stand in a longer one everywhere, and 12 is too short to stand alone.
    assert set(texts) == {"boundary layers", "swept wing", "measured", "1957"}
    assert all(len(passages) == 2 for passages in texts.values())


def test_spans_are_in_the_order_of_the_table_and_in_their_sentences(made):
    found = Recurring()(made).corpus
    order = found.spans[:, :2].tolist()
    assert order == sorted(order)
    bounds = found.sentences[found.spans[:, 0], 1:3]
    assert (found.spans[:, 1] >= bounds[:, 0]).all() and (found.spans[:, 2] <= bounds[:, 1]).all()


def counted(corpus, most, longest):
    """The definition in loops over words."""
    tokenizer, pieces = corpus.tokenizer(), {}
    for row, (passage, start, stop) in enumerate(corpus.sentences.tolist()):
        title = int(corpus.lengths[passage, 0])
        tokens = corpus.tokens[passage, title + start : title + stop].tolist()
        texts = [tokenizer.id_to_token(token) for token in tokens]
        begins = [i for i, text in enumerate(texts) if i == 0 or not text.startswith("##")]
        pieces[row] = [
            ("".join(t.removeprefix("##") for t in texts[a:b]), b - a, start + a, start + b)
            for a, b in itertools.pairwise([*begins, len(texts)])
        ]
    share = collections.defaultdict(set)
    for row, words in pieces.items():
        for word, size, *_ in words:
            if size == 1:
                share[word].add(int(corpus.sentences[row, 0]))
    common = {w for w, found in share.items() if len(found) > max(2, FREQUENT * corpus.size)}
    stops = {w for w in common | set(STOPWORDS_EN_PLUS)}
    runs, standing = collections.defaultdict(list), collections.defaultdict(set)
    for row, words in pieces.items():
        for n in range(1, longest + 1):
            for i in range(len(words) - n + 1):
                run = words[i : i + n]
                edges = [(word, size) for word, size, *_ in (run[0], run[-1])]
                if not all(word.isalnum() and "[" not in word for word, *_ in run):
                    continue
                if any(word in stops and size == 1 for word, size in edges):
                    continue
                if n == 1 and len(run[0][0]) < 4:
                    continue
                key = tuple(word for word, *_ in run)
                runs[key].append((row, run[0][2], run[-1][3]))
                standing[key].add(int(corpus.sentences[row, 0]))
    kept = {p for k, places in runs.items() if 2 <= len(standing[k]) <= most for p in places}
    inside = lambda a, b: a != b and a[0] == b[0] and b[1] <= a[1] and a[2] <= b[2]  # noqa: E731
    return sorted(a for a in kept if not any(inside(a, b) for b in kept))


@pytest.mark.parametrize(("most", "longest"), [(20, 5), (3, 2)])
def test_it_equals_a_count_in_loops(tiny, made, most, longest):
    for corpus in (tiny.corpus, made):
        found = Recurring(most, longest)(corpus).corpus
        assert sorted(map(tuple, found.spans[:, :3].tolist())) == counted(corpus, most, longest)


def test_passages_are_held_out_and_the_reasons_are_counted(tiny):
    asked = Recurring().queries(tiny.corpus, 0.2, 20)
    changed = Recurring()(tiny.corpus).corpus
    out = cloze_batches.held_out_sentences(changed, 0.2)
    assert not out[asked.rows].any() and asked.left_out["held out for evaluation"] == out.sum() > 0
    # All sentences of a passage, or none.
    owners = changed.sentences[:, 0]
    with_spans = np.isin(np.arange(len(owners)), changed.spans[:, 0])
    assert not set(owners[out]) & set(owners[with_spans & ~out])
    assert asked.left_out["runs of words in one passage alone"] > 0


@pytest.mark.parametrize(
    "texts", [["Every word differs here."], TEXTS[3:], ["漢字 " * 3, "русский"]]
)
def test_a_corpus_where_nothing_recurs_is_refused_in_one_line(tmp_path, texts):
    corpus = corpus_of(tmp_path, [*texts, "Unrelated sentence entirely."])
    with pytest.raises(UserError, match="no run of words recurs in 2 to 20 passages") as refused:
        Recurring().queries(corpus, 0.0, 20)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("most", [1, 0, -3, 2.5])
def test_a_span_in_less_than_two_passages_is_no_setting(most):
    with pytest.raises(UserError, match=r"Recurring\.most must be a whole number from 2"):
        Recurring(most)
