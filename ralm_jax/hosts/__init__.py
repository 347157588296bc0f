"""Training over hosts: how processes find each other, notice a loss, and share the passages.

In: the address of process 0; rows of passages, answers of one host's searcher.
Out: a started cluster that ends as one; the slice of each host, and answers merged over all slices.
Imports: errors, partition, retrieval.
"""
