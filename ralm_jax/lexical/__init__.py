"""Search by words: BM25 as the baseline, and BM25 beside dense search in one score.

In: texts, or the wordpieces of a corpus; dense neighbours of queries.
Out: rows [Q,k] and scores [Q,k], best first.
Imports: data, retrieval and what comes before them.
"""
