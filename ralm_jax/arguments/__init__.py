"""What the `ralm` command takes: its verbs, their options, and help written for a person.

In: the words of a command line.
Out: what they say, parsed, with the function of the verb.
Imports: nothing of ralm_jax.
"""
