"""What requests and responses hold: the same classes check what comes in and make the OpenAPI document."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ralm_jax.serving.warming import DEPTH

# Characters of a text, texts of a request, and bytes of its body: what is more is refused with 413.
CHARACTERS, TEXTS, BODY = 32_768, 2048, 2 << 20

Text = Annotated[str, Meta(min_length=1, max_length=CHARACTERS)]
Limit = Annotated[int, Meta(ge=1, le=DEPTH, description="how many passages to show")]
Offset = Annotated[int, Meta(ge=0, le=DEPTH - 1, description="how many to leave out before them")]
Model = Annotated[
    str | None, Meta(description="name of a run that is served; the first by default")
]
PromptName = Annotated[
    Literal["query", "passage", "document"] | None,
    Meta(description="which of the two towers embeds: that of questions by default"),
]
Item = Annotated[
    Text
    | Annotated[
        list[Annotated[str, Meta(max_length=CHARACTERS)]], Meta(min_length=2, max_length=2)
    ],
    Meta(description="a text; of a passage also a pair of title and text"),
]
Items = Annotated[list[Item], Meta(min_length=1, max_length=TEXTS)]


class Ask(Struct, forbid_unknown_fields=True):
    question: Text
    model: Model = None


class Search(Struct, forbid_unknown_fields=True):
    query: Text
    limit: Limit = 10
    offset: Offset = 0
    model: Model = None


class Neighbours(Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1, max_length=128, description="of a passage")]
    limit: Limit = 10
    offset: Offset = 0
    model: Model = None


class Passages(Struct, forbid_unknown_fields=True):
    text: Text
    limit: Limit = 10
    offset: Annotated[int, Meta(ge=0, le=10_000)] = 0
    model: Model = None


class Embed(Struct):
    inputs: Text | Items
    prompt_name: PromptName = None
    truncate: Annotated[bool, Meta(description="false: refuse texts longer than are read")] = True
    normalize: Annotated[bool, Meta(description="to length 1; runs search by inner product")] = (
        False
    )
    dimensions: int | None = None
    model: Model = None


class Rerank(Struct):
    query: Text
    texts: Annotated[list[Text], Meta(min_length=1, max_length=TEXTS)]
    raw_scores: Annotated[bool, Meta(description="false: as probabilities")] = False
    return_text: bool = False
    model: Model = None


class Embeddings(Struct):
    """Items are as those of Embed. Tokens, which OpenAI takes too, are of another tokenizer, and refused."""

    input: (
        Text | Annotated[list[Text | int | list[int | str]], Meta(min_length=1, max_length=TEXTS)]
    )
    model: Model = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    prompt_name: PromptName = None
    is_query: bool | None = None


class Passage(Struct):
    id: str
    title: str
    text: str
    documents: list[str]


class Ranked(Passage, kw_only=True):
    rank: int
    score: float
    probability: Annotated[float, Meta(description="p(z|x) over the passages ranked")]
    dense: Annotated[float, Meta(description="what the vectors gave to the score")]
    lexical: Annotated[float, Meta(description="what BM25 gave to the score")]


class Said(Struct):
    answer: str
    probability: float


class Reader(Struct):
    alone: Annotated[Said | None, Meta(description="the answer from this passage alone")]
    answer_alone: Annotated[float, Meta(description="of the answer given, from this passage alone")]
    answer_without: Annotated[
        float, Meta(description="of it, from the other passages that were read")
    ]


class Read(Ranked, kw_only=True):
    reader: Reader


class Evidence(Passage, kw_only=True):
    start: Annotated[int, Meta(description="first character of the answer in the text")]
    stop: Annotated[int, Meta(description="the character behind its last one")]


class Answer(Struct):
    answer: str | None
    probability: float
    evidence: Evidence | None
    runners_up: list[Said]
    passages: list[Read]
    cut: Annotated[bool, Meta(description="the question was longer than the run reads")]
    corpus_version: int


class Found(Struct):
    passages: list[Ranked]
    total: Annotated[int, Meta(description="passages that offset can reach")]
    cut: bool
    corpus_version: int


class Scored(Passage, kw_only=True):
    score: float


class Near(Struct):
    passages: list[Scored]
    total: int
    cut: bool
    corpus_version: int


class Score(Struct):
    index: int
    score: float
    text: str | None = None


class Served(Struct):
    name: str
    answers: Annotated[bool, Meta(description="whether it can be asked, or searched alone")]
    passages: int
    corpus_version: int
    dimensions: int
    stage: str
    step: int
    lexical_weight: float
    query_length: Annotated[int, Meta(description="wordpieces of the longest question")]
    passage_length: int


class Runs(Struct):
    runs: list[Served]


class Error(Struct):
    error: str
    error_type: str


class OpenAIError(Struct):
    error: dict[str, Any]
