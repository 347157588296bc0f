"""Models of other libraries become runs, and runs become models of other libraries.

In: folders of BERT, sentence-transformers and REALM models; runs.
Out: runs; folders that those libraries load.
Imports: training and what comes before it.
"""
