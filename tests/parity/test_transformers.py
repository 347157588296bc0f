"""Against transformers 4.40.2, the last that has REALM, and torch: random weights, both directions.

Each model is drawn and saved by transformers, imported here, compared on texts of varied lengths, masks and
segments, exported again and loaded there. Needs an environment of its own: requirements-transformers.txt.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from state_dicts import PIECES

from ralm_jax.batches import ClozeBatch, Text
from ralm_jax.data.tokenizer import SPECIALS, load_tokenizer, write_vocabulary
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.span_reading import best_spans
from ralm_jax.losses import marginal
from ralm_jax.models import ralm
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.weights import families, layout
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

# Warnings of theirs on their own code and on each other's: pytree names, deprecated storages.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

B, K, L, P, S = 2, 3, 9, 12, 18
SIZES = {
    "vocab_size": len(PIECES), "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
REALM = {
    **SIZES, "retriever_proj_size": 8, "span_hidden_size": 12, "max_span_width": 4,
    "num_candidates": K, "reader_beam_size": K, "searcher_beam_size": K, "reader_seq_len": S,
    "num_block_records": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    torch = pytest.importorskip("torch", reason="see requirements-transformers.txt")
    transformers = pytest.importorskip("transformers", reason="see requirements-transformers.txt")
    if not hasattr(transformers, "RealmEmbedder"):
        pytest.skip(f"transformers {transformers.__version__} has_answer no REALM")
    return torch, transformers


@pytest.fixture
def saved(theirs, tmp_path):
    """(class, config) -> a model of theirs with random weights, and the run imported from it."""
    torch, transformers = theirs

    def make(kind, seed=0, shared=False, safe=True, prepare=lambda path: None, **config):
        torch.manual_seed(seed)
        configured = (
            transformers.RealmConfig if kind.startswith("Realm") else transformers.BertConfig
        )
        settings = {**(REALM if kind.startswith("Realm") else SIZES), **config}
        cls = getattr(transformers, kind)
        model = cls(configured(**settings))
        if kind == "RealmScorer" and not shared:
            model = cls(configured(**settings), transformers.RealmEmbedder(configured(**settings)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                middle = 1.0 if "Norm" in name and name.endswith("weight") else 0.0
                parameter.normal_(middle, 0.3)
        if kind == "RealmForOpenQA":
            model.block_emb.normal_(0.0, 1.0)  # left as the memory was, otherwise
        model.tie_weights()
        path = tmp_path / f"{kind}{seed}"
        model.save_pretrained(path, safe_serialization=safe)
        write_vocabulary(path, PIECES)
        prepare(path)
        import_model(str(path), tmp_path / f"run_{kind}{seed}", say=lambda line: None)
        return model.eval(), tmp_path / f"run_{kind}{seed}"

    return make


def texts(seed, *shape) -> Text:
    """Random texts of varied length and segments, with a hole in some that nothing attends to."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, len(PIECES), shape).astype(np.int32)
    types = np.zeros(shape, np.int32)
    length = shape[-1]
    for place in np.ndindex(*shape[:-1]):
        stop, middle = rng.integers(length // 2, length + 1), rng.integers(2, length // 2)
        tokens[place][stop:] = 0
        types[place][middle:stop] = 1
        tokens[place][0], tokens[place][middle - 1], tokens[place][stop - 1] = 2, 3, 3
        if rng.random() < 0.5:
            tokens[place][middle] = types[place][middle] = 0
    return Text(tokens, types)


def inputs(torch, text: Text, prefix=""):
    return {
        f"{prefix}input_ids": torch.tensor(text.tokens, dtype=torch.long),
        f"{prefix}attention_mask": torch.tensor(text.tokens != 0, dtype=torch.long),
        f"{prefix}token_type_ids": torch.tensor(text.types, dtype=torch.long),
    }


def apply(loaded, *given, method):
    model = loaded.model
    return jax.jit(lambda p: model.apply({"params": p}, *given, method=method))(loaded.params)


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted.detach().numpy(), rtol=0, atol=1e-4)


def comes_back(theirs, model, run, to, out, folder=""):
    """Exported, it loads there with every tensor as it was, to the bit."""
    torch, _ = theirs
    export_model(run, to, out)
    again = type(model).from_pretrained(out / folder).state_dict()
    wanted = model.state_dict()
    assert again.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(again[name], tensor), name


def test_embedder(theirs, saved, tmp_path):
    model, run = saved("RealmEmbedder")
    text = texts(0, 6, P)
    wanted = model(**inputs(theirs[0], text)).projected_score
    for tower in ("queries", "passages"):
        close(apply(OpenRun.open(run), text, method=tower), wanted)
    comes_back(theirs, model, run, "realm", tmp_path / "out", "embedder")


@pytest.mark.parametrize("shared", [True, False])
def test_scorer(theirs, saved, tmp_path, shared):
    model, run = saved("RealmScorer", shared=shared, safe=False)  # a pytorch_model.bin
    batch = cloze_batch()
    wanted = model(
        **inputs(theirs[0], batch.query), **inputs(theirs[0], batch.candidates, "candidate_")
    )
    loaded = OpenRun.open(run)
    assert loaded.model.share_towers == shared
    close(apply(loaded, batch, method="scores"), wanted.relevance_score)
    export_model(run, "realm", tmp_path / "out")
    from safetensors.numpy import load_file

    given = load_file(tmp_path / "out" / "scorer" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(given[name], tensor.numpy(), err_msg=name)


def cloze_batch() -> ClozeBatch:
    rng = np.random.default_rng(5)
    candidates, joint = texts(2, B, K, P), texts(3, B, K, S)
    # The first candidate is the null passage, which is read no further than it can reach.
    for text, length in ((candidates, ralm.EMPTY), (joint, L + 1)):
        text.tokens[:, 0, length:] = text.types[:, 0, length:] = 0
    positions = np.array([[1, 2, 3], [2, 1, 0]], np.int32)
    return ClozeBatch(
        query=texts(1, B, L),
        candidates=candidates,
        joint=joint,
        valid=np.ones((B, K), bool),
        positions=positions,
        targets=rng.integers(5, len(PIECES), (B, 3)).astype(np.int32),
        weights=np.array([[1, 1, 1], [1, 1, 0]], np.float32),
    )


def test_encoder_loss_and_gradient_to_both_towers(theirs, saved, tmp_path):
    torch, _ = theirs
    encoder, reader_run = saved("RealmKnowledgeAugEncoder")
    scorer, run = saved("RealmScorer", seed=1, safe=False)
    batch = cloze_batch()
    labels = np.zeros((B, S), np.int64)
    mask = np.zeros((B, S), np.float32)
    for b in range(B):
        for position, target, weight in zip(
            batch.positions[b], batch.targets[b], batch.weights[b], strict=True
        ):
            if weight:
                labels[b, position], mask[b, position] = target, 1
    relevance = scorer(
        **inputs(torch, batch.query), **inputs(torch, batch.candidates, "candidate_")
    ).relevance_score
    out = encoder(
        **inputs(torch, batch.joint),
        relevance_score=relevance,
        labels=torch.tensor(labels),
        mlm_mask=torch.tensor(mask),
    )
    out.loss.backward()

    towers, reader = OpenRun.open(run), OpenRun.open(reader_run)
    params = {"retriever": towers.params["retriever"], "reader": reader.params["reader"]}
    model = towers.model
    logits = model.apply({"params": params}, batch, method="read")  # [B,K,M,V]
    wanted = out.logits.view(B, K, S, -1)
    for b in range(B):
        close(logits[b], wanted[b][:, torch.tensor(batch.positions[b], dtype=torch.long)])

    def loss(params):
        scores, likelihood = model.apply({"params": params}, batch)
        total, count = marginal.marginal_per_token(
            marginal.log_prior(scores, batch.valid), likelihood, batch.weights
        )
        return total / count

    value, grads = jax.value_and_grad(loss)(params)
    close(value, out.loss)
    c = model.retriever_config
    for path, name in ((families.TOWER, "embedder"), (families.QUERY_TOWER, "query_embedder")):
        found = layout.give(families.embedder(c, path, "", 8), grads)
        wanted = dict(getattr(scorer, name).named_parameters())
        assert float(np.abs(found["cls.dense.weight"]).max()) > 1e-3
        for key, array in found.items():
            close(array, wanted[key].grad)
    found = layout.give(families.encoder(c), grads)
    for key in ("realm.encoder.layer.0.attention.self.key.weight", "cls.predictions.bias"):
        close(found[key], dict(encoder.named_parameters())[key].grad)
    comes_back(theirs, encoder, reader_run, "realm", tmp_path / "out", "encoder")


def span_logits(model, torch, text, within):
    """Theirs, laid out as ours: [K,S,W]; -inf where there is no such span."""
    states = model.realm(**inputs(torch, text))[0]
    logits, starts, ends = model.qa_outputs(states, torch.tensor(within))
    out = np.full((*text.tokens.shape, REALM["max_span_width"]), -np.inf, np.float32)
    out[:, starts.numpy(), (ends - starts).numpy()] = logits.detach().numpy()
    return out


def selected(loaded, joint: Text, within, relevance) -> tuple[int, int, int]:
    """Passages [K,S] with relevance [K] -> the likeliest span: which, first and last wordpiece."""
    alone = Text(*(x[:, None] for x in joint))
    starts, wides, scores, _ = best_spans(
        loaded.model, loaded.params["reader"], alone, within[:, None]
    )
    k = int(np.argmax(np.asarray(scores)[:, 0] + relevance))
    return k, int(starts[k, 0]), int(starts[k, 0] + wides[k, 0])


def test_reader_scores_and_spans(theirs, saved, tmp_path):
    torch, _ = theirs
    model, run = saved("RealmReader", safe=False)  # its tensors are shared: not safetensors
    loaded = OpenRun.open(run)
    for seed in range(5):
        text = texts(10 + seed, K, S)
        within = (text.types == 1) & (text.tokens != 3) & (text.tokens != 0)
        relevance = np.random.default_rng(seed).normal(0, 1, K).astype("f")
        whole = Text(text.tokens[None], text.types[None])
        found = apply(loaded, whole, within[None], method="read")
        wanted = span_logits(model, torch, text, within)
        real = wanted > -1e30
        assert real.any() and ((np.asarray(found[0]) > -1e30) == real).all()
        np.testing.assert_allclose(np.asarray(found[0])[real], wanted[real], atol=1e-4)
        out = model(
            **inputs(torch, text),
            relevance_score=torch.tensor(relevance),
            block_mask=torch.tensor(within),
        )
        said = selected(loaded, text, within, relevance)
        assert said == (int(out.block_idx), int(out.start_pos), int(out.end_pos))
    comes_back(theirs, model, run, "transformers", tmp_path / "out")


def test_the_losses_of_fine_tuning(theirs, saved):
    """The sum of both terms, with and without a correct passage and span; beam and read are one here."""
    torch, _ = theirs
    model, run = saved("RealmReader", safe=False)
    loaded = OpenRun.open(run)
    for seed, (some, read_right) in enumerate([(True, True), (True, False), (False, False)]):
        rng = np.random.default_rng(seed)
        text = texts(20 + seed, K, S)
        within = (text.types == 1) & (text.tokens != 3) & (text.tokens != 0)
        relevance = rng.normal(0, 1, K).astype("f")
        has_answer = np.array([True, False, True]) & some
        starts = np.full((K, 2), -1)
        stops = starts.copy()
        if read_right:
            starts[0, 0] = stops[0, 0] = np.flatnonzero(within[0])[0]
            starts[2] = np.flatnonzero(within[2])[:2]
            stops[2] = np.flatnonzero(within[2])[1:3]
        out = model(
            **inputs(torch, text),
            relevance_score=torch.tensor(relevance),
            block_mask=torch.tensor(within),
            has_answers=torch.tensor(has_answer),
            start_positions=torch.tensor(starts),
            end_positions=torch.tensor(stops),
        )
        spans = apply(loaded, Text(*(x[None] for x in text)), within[None], method="read")
        gold = np.zeros(spans.shape, bool)
        for k, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            for s, e in zip(start, stop, strict=True):
                if s >= 0 and e - s < gold.shape[-1]:
                    gold[0, k, s, e - s] = True
        total = (spans + relevance[None, :, None, None]).reshape(1, -1)
        retrieval, _ = marginal.answer_likelihood(jnp.asarray(relevance)[None], has_answer[None])
        reading, _ = marginal.answer_likelihood(total, jnp.asarray(gold.reshape(1, -1)))
        close(retrieval, out.retriever_loss)
        close(reading, out.reader_loss)
        close(retrieval + reading, out.loss)


def test_open_qa_from_question_to_answer(theirs, saved, tmp_path):
    _, transformers = theirs
    rng = np.random.default_rng(0)
    words = [p for p in PIECES if p[0] not in "[#"]
    records = np.array([" ".join(rng.choice(words, 8)).encode() for _ in range(7)], object)

    def prepare(path):
        np.save(path / "block_records.npy", records, allow_pickle=True)

    model, run = saved("RealmForOpenQA", safe=False, prepare=prepare)
    loaded = OpenRun.open(run)
    tokenizer = transformers.RealmTokenizer(str(run / "vocab.txt"))
    model.retriever = transformers.RealmRetriever(records, tokenizer)
    vectors = index.open_version(directory.index_folder(run, "import"), 0, "import").vectors
    np.testing.assert_array_equal(vectors, model.block_emb.numpy())
    ours = load_tokenizer(run / "vocab.txt")
    answers = set()
    for question in ("the city of a", "born in the year", "b c d", "of of the w x"):
        asked = tokenizer([question], return_tensors="pt")
        out, wanted = model(**asked, return_dict=False)
        query = Text(*(asked[k].numpy().astype(np.int32) for k in ("input_ids", "token_type_ids")))
        vector = np.asarray(apply(loaded, query, method="queries"))[0]
        best = np.argsort(-(vectors @ vector), kind="stable")[:K]
        joint = pairs(ours, question, [records[row].decode() for row in best])
        within = (joint.types == 1) & (joint.tokens != 3)
        k, start, stop = selected(loaded, joint, within, vectors[best] @ vector)
        assert k == int(out.block_idx)
        assert joint.tokens[k, start : stop + 1].tolist() == wanted.tolist()
        answers.add(tuple(wanted.tolist()))
    assert len(answers) > 1
    comes_back(theirs, model, run, "realm", tmp_path / "out")
    again = transformers.RealmRetriever.from_pretrained(tmp_path / "out")
    assert [bytes(r) for r in again.block_records] == list(records)


def pairs(tokenizer, question, passages) -> Text:
    """[CLS] question [SEP] passage [SEP], padded to the longest."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    asked = encode(question)
    rows = [[2, *asked, 3, *encode(p), 3][:S] for p in passages]
    rows = [[*row[:-1], 3] for row in rows]
    width = max(map(len, rows))
    tokens = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
    types = (np.arange(width) > len(asked) + 1) & (tokens != 0)
    return Text(tokens, types.astype(np.int32))


@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
def test_bert_for_masked_lm(theirs, saved, tmp_path, act):
    model, run = saved("BertForMaskedLM", hidden_act=act)
    text = texts(0, 5, S)
    positions = np.tile(np.array([[1, 2, 3]], np.int32), (5, 1))
    loaded = OpenRun.open(run)
    found = jax.jit(
        lambda p: loaded.model.apply(
            {"params": p}, *text, positions, method=lambda m, *a: m.reader(*a)
        )
    )(loaded.params)
    close(found, model(**inputs(theirs[0], text)).logits[:, 1:4])
    comes_back(theirs, model, run, "transformers", tmp_path / "out")


def test_bert_model(theirs, saved):
    """Its states, through the pooled and projected retriever that is drawn around them."""
    model, run = saved("BertModel")
    text = texts(4, 5, P)
    loaded = OpenRun.open(run)
    tower = loaded.params["retriever"]["passage_tower"]
    pooled = model(**inputs(theirs[0], text)).pooler_output.detach().numpy()
    projected = pooled @ tower["projection"]["kernel"]
    gap = projected - projected.mean(1, keepdims=True)
    wanted = gap / np.sqrt((gap**2).mean(1, keepdims=True))
    found = apply(loaded, text, method="passages")
    np.testing.assert_allclose(found, wanted, atol=1e-3)  # a LayerNorm of small numbers


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
@pytest.mark.parametrize("chinese", [True, False])
def test_tokenizer(tmp_path, fast, lowercase, strip_accents, chinese):
    """A tokenizer that is written here cuts texts there as it does here."""
    transformers = pytest.importorskip("transformers", reason="see requirements-transformers.txt")
    words = "schon schön Schön muller müller Muller Müller 東 京 東京 c ç C Ç ##a ##á the The"
    settings = TokenizerSettings(lowercase, strip_accents, chinese)
    write_vocabulary(tmp_path, [*SPECIALS, *words.split()], settings)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    there = transformers.AutoTokenizer.from_pretrained(tmp_path, use_fast=fast)
    here = load_tokenizer(tmp_path / "vocab.txt", settings)
    text = "schön Müller 東京 çá The Ç"
    assert there.tokenize(text) == here.encode(text).tokens
