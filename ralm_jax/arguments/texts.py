"""Verbs that take something in or hand it back: text, released models, runs."""

from ralm_jax.arguments.shared import add_columns, add_json, add_runner


def prepare(verbs):
    verb = verbs.add_parser(
        "prepare",
        help="turn text into a corpus",
        description="Cuts documents into passages at sentence ends, finds dates, numbers and names "
        "to mask, and writes a corpus directory. Says what it left out, and why.",
    )
    verb.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a file of JSON lines, CSV, TSV, Parquet or Arrow with id, title, text, several of them, or a "
        "pattern, 'part-*.jsonl.gz', also gs:// and s3://; a folder of texts and pages, of BEIR, MTEB or "
        "datasets; tfds:NAME[/CONFIG][:SPLIT]; hf:OWNER/NAME[/CONFIG][:SPLIT]; or - for standard input",
    )
    verb.add_argument("--out", required=True, metavar="CORPUS", help="the directory to make")
    verb.add_argument(
        "--vocab",
        metavar="FILE|RUN",
        help="a BERT vocab.txt, a tokenizer.json, or a run to use the corpus with (default: from SOURCE)",
    )
    verb.add_argument(
        "--vocab-size", type=int, default=30522, metavar="V", help="of a trained one (30522)"
    )
    verb.add_argument(
        "--passage-tokens", type=int, default=288, metavar="P", help="wordpieces a passage (288)"
    )
    add_columns(verb)
    verb.add_argument("--cased", action="store_true", help="keep capitals and accents")
    add_runner(verb)
    add_json(verb, "the counts")
    return "prepare", verb


def update(verbs):
    verb = verbs.add_parser(
        "update",
        help="bring a corpus up to date with its source",
        description="Makes the next version of a corpus: documents whose text is the same are skipped, those "
        "that changed are replaced, new ones are added, and with --prune those that the source lacks are "
        "deleted. Only new passages are embedded when a run is next used with it. Whoever has the corpus "
        "open goes on with the version it has. The same command again changes nothing.",
    )
    verb.add_argument("corpus", metavar="CORPUS", help="made by ralm prepare")
    verb.add_argument(
        "source", nargs="?", metavar="SOURCE", help="documents, as ralm prepare takes them"
    )
    verb.add_argument(
        "--prune", action="store_true", help="delete the documents that SOURCE does not have"
    )
    verb.add_argument(
        "--delete", metavar="FILE", help="delete the documents of these ids, one on each line"
    )
    add_columns(verb)
    add_json(verb, "the counts")
    return "update", verb


def import_(verbs):
    verb = verbs.add_parser(
        "import",
        help="make a run of a model that was released",
        description="Reads an encoder (BERT, RoBERTa, XLM-R, DistilBERT, MPNet, ModernBERT or NomicBERT; as "
        "it is, as a masked LM, in sentence-transformers) or REALM as transformers 4 keeps it, and makes a "
        "run of it, which serves wherever a run does. Says what the source lacks.",
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help="a directory; package:NAME, an installed package that carries a model; or OWNER/NAME on "
        "the Hugging Face hub",
    )
    verb.add_argument("--out", required=True, metavar="RUN", help="the run to make")
    for text in ("query", "passage"):
        verb.add_argument(
            f"--{text}-prompt",
            action="text",
            metavar="TEXT",
            help=f"put before every {text}, in place of what the source or its card says",
        )
    add_json(verb, "what was imported")
    return "import", verb


def export(verbs):
    verb = verbs.add_parser(
        "export",
        help="hand a run back in the layout of another library",
        description="sentence-transformers: the retriever, with a card (data, recipe, results, licence). "
        "transformers: the reader. realm: all of it, in the classes of transformers 4. vectors: passage "
        "vectors, ids and texts, for FAISS, ScaNN, LangChain, LlamaIndex.",
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
    verb.add_argument(
        "--report",
        metavar="FILE",
        help="for the card of sentence-transformers: the figures of this run, by ralm evaluate --json FILE",
    )
    verb.add_argument(
        "--license",
        metavar="NAME",
        help="for the card: of the model, as the hub names it: apache-2.0, mit",
    )
    return "export", verb


def embed(verbs):
    verb = verbs.add_parser(
        "embed",
        help="embed a corpus for a vector database",
        description="Embeds the passages of a corpus with the retriever of a run, and writes their vectors "
        "as vectors.npy and ids.npy, and as Parquet with id, title, text and vector, which Qdrant, Milvus, "
        "Vespa, OpenSearch and others load. Killed, the same command goes on where it was.",
    )
    verb.add_argument("--run", required=True, metavar="RUN", help="made by ralm pretrain or import")
    verb.add_argument(
        "--corpus", metavar="CORPUS", help="whose passages to embed (default: the run's own)"
    )
    verb.add_argument("--out", required=True, metavar="DIR", help="the directory to make")
    add_runner(verb)
    add_json(verb, "the counts")
    return "embed", verb


def push(verbs):
    verb = verbs.add_parser(
        "push",
        help="upload an exported model to the Hugging Face hub",
        description="Makes the repository if it is not there, and uploads the folder, card included; a card "
        "that the repository has stays. HF_TOKEN holds a token that may write.",
    )
    verb.add_argument(
        "folder", metavar="DIR", help="made by ralm export --to sentence-transformers"
    )
    verb.add_argument("repository", metavar="OWNER/NAME", help="of the hub")
    verb.add_argument("--private", action="store_true", help="if the repository is made")
    verb.add_argument("--pr", action="store_true", help="open a pull request instead of committing")
    return "push", verb
