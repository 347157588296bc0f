"""Text in: documents of JSON lines, folders and TFDS datasets, and a synthetic encyclopedia.

In: a file, a folder, a name.
Out: `Document`, one after the other, and the counts of what was left out.
Imports: errors, metrics.
"""
