"""How good a result is, as sums and counts that batches, devices and processes can add up.

In: predictions, rankings and what was wanted, as numpy arrays and texts.
Out: (sum, count) pairs, means, exact match and F1.
Imports: errors.
"""
