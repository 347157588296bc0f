"""Verbs that use a run and change nothing in it."""

from ralm_jax import terminal
from ralm_jax.verbs.figures import Write


def ask(arguments, write: Write) -> None:
    from ralm_jax.inference.ask import ask

    given = {"run": arguments.run, "corpus": arguments.corpus}
    ask(**given, question=arguments.question, as_json=arguments.lines == "-")


def check(arguments, write: Write) -> None:
    from ralm_jax.check import check, require_sound, table

    parts = check(arguments.path)
    write([{**part._asdict(), "path": str(part.path)} for part in parts])
    terminal.say(table(arguments.path, parts))
    require_sound(parts)


def evaluate(arguments, write: Write) -> None:
    from ralm_jax.evaluation.evaluate import evaluate, table

    report = evaluate(
        arguments.run,
        arguments.questions,
        arguments.corpus,
        stage=arguments.stage,
        predictions=arguments.predictions,
        reference=arguments.reference,
        each=arguments.each,
        rankings=arguments.rankings,
        bm25=not arguments.no_bm25,
    )
    write(report)
    print(table(report))


def serve(arguments, write: Write) -> None:
    from ralm_jax.serving.serve import serve

    names = ("run", "beside", "corpus", "host", "port", "api_key_file")
    serve(**{name: getattr(arguments, name) for name in names})
