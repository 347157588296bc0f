"""Verbs that use a run and change nothing in it."""

from ralm_jax.arguments.shared import add_json, add_no_bm25


def ask(verbs):
    verb = verbs.add_parser(
        "ask",
        help="ask a fine-tuned run a question",
        description="The answer, the passage it stands in with the span marked, how likely each passage was, "
        "and the runners-up. Without a QUESTION it asks for them, one after the other.",
    )
    verb.add_argument("question", nargs="?", metavar="QUESTION", help="default: asked for")
    verb.add_argument("--run", required=True, metavar="RUN2", help="made by ralm finetune")
    verb.add_argument("--corpus", metavar="CORPUS", help="another corpus than the run's own")
    verb.add_argument("--json", dest="lines", choices=["-"], help="print JSON, a line a question")
    return "ask", verb


def serve(verbs):
    verb = verbs.add_parser(
        "serve",
        help="serve a run: a page to ask it on, and an API",
        description="A page to ask and to search on, a JSON API (/openapi.json), and the endpoints that "
        "clients of OpenAI's embeddings and of text-embeddings-inference call. Many clients are answered "
        "together. SIGINT and SIGTERM end it once what is in flight is answered. A run that was not "
        "fine-tuned searches and embeds, and does not answer.",
    )
    verb.add_argument("--run", required=True, metavar="RUN", help="made by any verb that makes one")
    verb.add_argument(
        "--beside",
        metavar="RUN",
        help="another run to compare with, such as the one before training",
    )
    verb.add_argument("--corpus", metavar="CORPUS", help="another corpus than the run's own")
    verb.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: this machine alone); another one needs a key",
    )
    verb.add_argument(
        "--port", type=int, default=8000, help="default: 8000; 0 for any that is free"
    )
    verb.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="a file whose first line is the key that clients give (default: $RALM_API_KEY)",
    )
    return "serve", verb


def check(verbs):
    verb = verbs.add_parser(
        "check",
        help="read a corpus, a run or vectors whole, against their checksums",
        description="A line for each version of a corpus, or for each checkpoint and index of a run: its "
        "size, and whether it is sound. Exit code 2 where one is not. Nothing is changed.",
    )
    verb.add_argument("path", metavar="DIR", help="a corpus, a run or vectors of ralm embed")
    add_json(verb, "what was found")
    return "check", verb


def evaluate(verbs):
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
        metavar="QUESTIONS",
        help="question, answers, and gold_ids where known: JSON lines, CSV, Parquet, the files of SQuAD, "
        "DPR, KILT, CuratedTREC; a BEIR or MTEB folder; QUERIES+QRELS; tfds:NAME or hf:OWNER/NAME",
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
    verb.add_argument(
        "--rankings",
        metavar="DIR",
        help="also write what every row found: runs and qrels of TREC, results of BEIR",
    )
    add_json(verb)
    add_no_bm25(verb)
    return "evaluate", verb
