"""The three maskings of the REALM paper: which wordpieces of a sentence are hidden from the reader.

Every masking is a pure function of a sentence and a random generator; the wordpieces it chooses all
become [MASK], as in the released code (no 80/10/10 split).
"""

from collections.abc import Callable

import numpy as np

from ralm_jax.data.tokenizer import Vocabulary

MASKED_SHARE = 0.15
SPAN_STOP_PROBABILITY = 0.2  # SpanBERT: lengths ~ Geometric(0.2), in words,
MAX_SPAN_WORDS = 10  # clipped here

# (tokens [n] int, spans [s, 2] int, vocabulary, generator) -> [n] bool, true where masked.
# Spans are (start, stop) in wordpieces of the sentence; special tokens are not part of it.
Mask = Callable[[np.ndarray, np.ndarray, Vocabulary, np.random.Generator], np.ndarray]


def salient_span(
    tokens: np.ndarray, spans: np.ndarray, vocabulary: Vocabulary, generator: np.random.Generator
) -> np.ndarray:
    """One of the salient spans, each as likely as the others; nothing if there is none."""
    mask = np.zeros(len(tokens), bool)
    if len(spans):
        start, stop = spans[generator.integers(len(spans))]
        mask[start:stop] = True
    return mask


def random_span(
    tokens: np.ndarray, spans: np.ndarray, vocabulary: Vocabulary, generator: np.random.Generator
) -> np.ndarray:
    """Spans of whole words until 15% of the wordpieces are masked, at least one word (SpanBERT).

    The last span ends with the word that reaches the 15%.
    """
    mask = np.zeros(len(tokens), bool)
    begins = word_starts(tokens, vocabulary)
    ends = np.append(begins[1:], len(tokens))
    free = np.ones(len(begins), bool)  # words not masked yet
    wanted = _number_to_mask(len(tokens))
    while wanted > mask.sum() and free.any():
        length = min(generator.geometric(SPAN_STOP_PROBABILITY), MAX_SPAN_WORDS)
        first = generator.choice(np.flatnonzero(free))
        for word in range(first, min(first + length, len(begins))):
            if not free[word] or mask.sum() >= wanted:
                break
            mask[begins[word] : ends[word]] = True
            free[word] = False
    return mask


def random_uniform(
    tokens: np.ndarray, spans: np.ndarray, vocabulary: Vocabulary, generator: np.random.Generator
) -> np.ndarray:
    """15% of the wordpieces, at least one, each as likely as the others (BERT)."""
    mask = np.zeros(len(tokens), bool)
    mask[generator.choice(len(tokens), _number_to_mask(len(tokens)), replace=False)] = True
    return mask


def word_starts(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Where the words of a sentence begin, [w] int; its first wordpiece always begins one."""
    return np.flatnonzero(vocabulary.begins(tokens))


def _number_to_mask(length: int) -> int:
    return min(length, max(1, round(MASKED_SHARE * length)))
