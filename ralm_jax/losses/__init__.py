"""What is minimised, as pure functions from arrays to a sum and a count.

In: scores [B,K], log-likelihoods [B,K,M], weights [B,M] and labels.
Out: (sum, count), and telemetry as {name: (sum, count)}.
Imports: batches, models.
"""
