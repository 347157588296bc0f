"""Where the batches of a task come from: drawn from a corpus, or found for its queries in an index.

In: a corpus, a model with its parameters, and the task that makes a batch of what was drawn and found.
Out: the batch of a step, what a checkpoint must hold of it, and an index that is refreshed as a policy says.
Imports: inference and what comes before it.
"""
