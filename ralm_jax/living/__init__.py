"""Corpora that change: the next version of one, made of its rows that stay and of passages that are new.

In: a corpus, a source of documents, ids to delete.
Out: the next version, published whole.
Imports: errors, sources, data.
"""
