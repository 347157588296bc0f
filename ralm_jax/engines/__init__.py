"""Work that goes part by part, here or on a distributed engine: a corpus prepared, or embedded for others.

In: documents, or a run and a corpus; the name of an engine.
Out: a corpus directory, or a folder of vectors that vector databases load.
Imports: errors, data, sources, retrieval, runs, inference.
"""
