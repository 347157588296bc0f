"""Which parameters are kept: of the steps of a fine-tuning, and of the weights between a start and an end.

In: parameters as training makes them, and what they are measured on.
Out: the checkpoint of the best, and a record of what chose it.
Imports: evaluation and what comes before it.
"""
