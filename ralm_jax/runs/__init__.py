"""What lies in the folder of a run: its record, configuration, checkpoints, metrics, plots, lock.

In: a model, a corpus, parameters, scalars.
Out: files that appear by one rename, and what is read back from them.
Imports: errors, models, data.
"""
