"""What is learnt: tasks, losses under one step, and the loop.

In: a corpus, stages with their schedules, a model or a run to start from.
Out: a run: checkpoints, index, metrics.
Imports: selection and what comes before it.
"""
