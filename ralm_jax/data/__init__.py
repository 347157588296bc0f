"""Text in, a corpus on disk: documents, sentences, wordpieces, salient spans, and the corpus opened again.

In: JSON lines, a folder of text, a TFDS name.
Out: a corpus directory, written whole or not at all, and `Corpus`.
Imports: errors, metrics.
"""
