"""What each verb of the `ralm` command does with its arguments: it calls the function of that name.

In: arguments, parsed; where figures go.
Out: what a person reads, on standard output; figures, where `--json` says.
Imports: arguments, gin_config, and whatever the verb is about, once it is called.
"""
