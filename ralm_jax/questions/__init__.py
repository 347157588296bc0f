"""Questions with their answers and gold passages, from the files that people have.

In: a file or a folder of questions, judgments of relevance, a TFDS dataset.
Out: `Questions`, and the counts of what was left out or joined.
Imports: errors, metrics, sources.
"""
