"""How good a run is: retrieval and answers beside BM25, and masked spans it was never trained on.

In: an open run, questions.
Out: reports that are JSON, and the tables a person reads.
Imports: inference and what comes before it.
"""
