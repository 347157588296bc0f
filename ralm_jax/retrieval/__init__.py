"""Maximum inner product search behind one interface, the versions of an index, and when it is refreshed.

In: vectors of queries [B,E] and passages [N,E].
Out: rows [B,K] and scores [B,K], best first; versions on disk.
Imports: errors, metrics, partition.
"""
