"""What a finished run can do: embed, search, answer, and show what it read.

In: the folder of a run, questions.
Out: rankings, answers with their evidence.
Imports: errors, batches, metrics, models, losses, data, retrieval, examples, runs.
"""
