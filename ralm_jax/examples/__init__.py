"""Corpus and questions in, batches out: masks, clozes, questions, and where their answers stand.

In: rows of a corpus, questions.
Out: the batches of `ralm_jax.batches`, pure in (seed, step).
Imports: errors, batches, metrics, data, questions.
"""
