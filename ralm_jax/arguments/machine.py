"""Verbs about this installation: what ships with it, what it runs on, how a shell completes it."""

from ralm_jax.arguments.shared import add_json

SHELLS = ("bash", "zsh")


def configs(verbs):
    verb = verbs.add_parser(
        "configs",
        help="list the configurations that ship",
        description="A line for each, with its name as --config takes it. Those in runs/ are whole runs, of "
        "`ralm pretrain` and `ralm finetune`; the others are parts that a file of your own includes, and "
        "the rows of the experiments. Each opens with its command, its hardware and how long it takes.",
        epilog='A configuration of your own is a file that begins with: include "runs/small.gin"',
    )
    return "configs", verb


def doctor(verbs):
    verb = verbs.add_parser(
        "doctor",
        help="look at this machine: devices, versions, ScaNN, memory, caches, and what is missing",
        description="Starts JAX and ScaNN and says what there is to run on, which versions of what are "
        "installed, how large the caches have grown, and what is missing, with the command that installs it. "
        "Exit code 2 where something that is needed is broken, and 0 otherwise. Nothing is changed.",
    )
    add_json(verb, "what was found")
    return "doctor", verb


def completion(verbs):
    verb = verbs.add_parser(
        "completion",
        help="print what lets a shell complete this command",
        description="Verbs, options, files, and the names of configurations that ship.",
        epilog="bash: ralm completion bash > ~/.local/share/bash-completion/completions/ralm. "
        "zsh: ralm completion zsh > FOLDER/_ralm, where FOLDER is one of $fpath.",
    )
    verb.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" or ".join(SHELLS))
    return "completion", verb
