"""A run behind HTTP: a page to ask it on, an API, and the endpoints that embedding clients call.

In: requests of many clients at a time.
Out: answers with their evidence, rankings, vectors, scores; never a text in the log.
Imports: errors, signals, inference and what comes before them.
"""
