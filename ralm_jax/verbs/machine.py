"""Verbs about this installation."""

from ralm_jax import terminal
from ralm_jax.verbs.figures import Write


def doctor(arguments, write: Write) -> None:
    from ralm_jax.doctor import doctor, require_well, table

    found = doctor()
    write(found)
    terminal.say(table(found))
    require_well(found)


def configs(arguments, write: Write) -> None:
    from ralm_jax.arguments.shared import described

    lines = described()
    width = max(map(len, lines))
    print("\n".join(f"{name:<{width}}  {line}" for name, line in lines.items()))


def completion(arguments, write: Write) -> None:
    from ralm_jax.arguments.completion import script

    print(script(arguments.parser, arguments.shell), end="")
