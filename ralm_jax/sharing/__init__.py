"""What was trained here, for others: the card of an exported model, and its way to the Hugging Face hub.

In: a run; a report of `ralm evaluate`; the folder of an export.
Out: README.md in the folder; a repository of the hub.
Imports: evaluation, runs, inference.
"""
