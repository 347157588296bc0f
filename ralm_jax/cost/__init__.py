"""What training will cost, before it starts: operations, memory, hours, money.

In: the stages of a configuration, the sizes of a model and of a corpus, and the name of a device.
Out: figures, with every assumption; programs compiled for a device that is not here; how many queries fit.
Imports: training and what comes before it; the loop, which asks how many fit, imports it.
"""
