"""Verbs that take something in or hand it back: text, released models, runs."""

import functools
from pathlib import Path
from typing import Any

from ralm_jax import json_text, terminal
from ralm_jax.arguments.shared import columns
from ralm_jax.errors import UserError
from ralm_jax.verbs.figures import Write


def prepare(arguments, write: Write) -> None:
    from ralm_jax.data.prepare import prepare
    from ralm_jax.data.tokenizer_settings import TokenizerSettings
    from ralm_jax.data.tokenizing import is_kept
    from ralm_jax.engines import runner
    from ralm_jax.runs import directory

    vocab, settings = arguments.vocab, TokenizerSettings(lowercase=not arguments.cased)
    if vocab and Path(vocab).is_dir():
        vocab, settings = directory.vocabulary(Path(vocab))
        if arguments.cased and settings.lowercase:
            does = (
                "has a tokenizer that is taken as it is" if is_kept(vocab) else "lower-cases text"
            )
            raise UserError(f"--cased: the run {arguments.vocab} {does}; leave --cased out")
    source, passes = arguments.source, None
    if engine := runner.chosen(arguments.runner, arguments.runner_option):
        from ralm_jax.engines.beam_corpus import BeamPasses

        passes = BeamPasses(engine, columns(arguments))
    counts = prepare(
        source[0] if len(source) == 1 else source,
        arguments.out,
        vocab_file=vocab,
        vocab_size=arguments.vocab_size,
        passage_tokens=arguments.passage_tokens,
        settings=settings,
        passes=passes,
        columns=columns(arguments),
    )
    write(counts)


def update(arguments, write: Write) -> None:
    from ralm_jax.formats.lines import text_lines
    from ralm_jax.living.update import update

    given = {"prune": arguments.prune, "columns": columns(arguments)}
    if arguments.delete is not None:
        given["delete"] = [id for _, id in text_lines(Path(arguments.delete))]
    write(update(arguments.corpus, arguments.source, **given))


def import_(arguments, write: Write) -> None:
    from ralm_jax.weights.importing import import_model

    prompts = (arguments.query_prompt, arguments.passage_prompt)
    write(import_model(arguments.source, arguments.out, prompts=prompts))


def export(arguments, write: Write) -> None:
    from ralm_jax.sharing.card import About
    from ralm_jax.weights.exporting import export_model

    report = None if arguments.report is None else _report(Path(arguments.report))
    about = About(report, arguments.license)
    given = (arguments.run, arguments.to, arguments.out, arguments.corpus)
    for file in export_model(*given, about=about):
        terminal.say(f"{file}  {file.stat().st_size:,} bytes")


def _report(file: Path) -> dict[str, Any]:
    try:
        return json_text.parse(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--report: {file} cannot be read: {error}") from error


def embed(arguments, write: Write) -> None:
    from ralm_jax.engines import runner
    from ralm_jax.engines.embed import embed

    by = None
    if engine := runner.chosen(arguments.runner, arguments.runner_option):
        from ralm_jax.engines import beam_embed

        by = functools.partial(beam_embed.embed, engine)
    counts = embed(arguments.run, arguments.out, arguments.corpus, by=by)
    for name, count in counts.items():
        print(f"{count:>12,}  {name}")
    write(counts)


def push(arguments, write: Write) -> None:
    from ralm_jax.sharing.push import push

    push(
        arguments.folder,
        arguments.repository,
        private=arguments.private,
        pull_request=arguments.pr,
    )
