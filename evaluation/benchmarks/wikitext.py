"""WikiText-2: bits per byte on encyclopaedic English. A guard-rail: what a lesson, or a compression, costs in language.

Each article is scored whole, in windows of the context (``teachfair.models.rolling``). The text is the file's own: what
stands there as ``<unk>`` is read as those five characters, unless the tokenizer takes them for its special token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.reading import decoded, read_bytes
from teachfair.errors import DataError
from teachfair.evaluation.benchmarks import crows_pairs
from teachfair.evaluation.text_records import text_records, text_summary

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    "name": "wikitext",
    "meaning": "Bits per byte on WikiText-2's test articles: how well ordinary text is still predicted. Lower = better.",
    "paper": "Merity, Xiong, Bradbury, Socher (2017): Pointer Sentinel Mixture Models. ICLR. arXiv:1609.07843",
    "source": "github.com/pytorch/examples, commit 77f55b91, word_language_model/data/wikitext-2/test.txt",
    "licence": "CC BY-SA 3.0",
    "language": "en",
    "lang": ["en"],
    "measures": "guard",
    "headline": None,
    "guards": ["text"],
    "needs": ["wikitext2/test.txt (or valid.txt)"],
    "norm": "none: it measures language, not fairness",
    "version": "1",
    "direction": "lower bits_per_byte = better language model",
    "target": "no worse than the untaught model's",
    "outcome_condition": None,
    "problems": [
        "this is the tokenised version: rare words are <unk>, punctuation stands apart, numbers are split by @",
        "whether a tokenizer takes <unk> for its special token moves bits per byte by half a bit: compare models of one "
        "tokenizer, or look at dropped_characters",
        "bytes are those of the text that the tokens keep; a tokenizer that drops characters is not paid for them",
        "models have often been trained on Wikipedia",
    ],
}
_TITLE = re.compile(r"^ = [^=].*[^=] = $", re.MULTILINE)


def data_files(data_dir: Path | str | None, *, split: str = "test") -> list[Path]:
    """The split's file. Raises: ConfigError if it is absent."""
    return [crows_pairs.find(data_dir, f"{split}.txt", "wikitext2", CARD)]


def items(data_dir: Path | str | None = None, *, split: str = "test") -> list[dict[str, Any]]:
    """One item an article, its heading included; ``split``: test or valid. Raises: DataError if the file has none."""
    (path,) = data_files(data_dir, split=split)
    text, _ = decoded(path, read_bytes(path))
    starts = [found.start() for found in _TITLE.finditer(text)]
    articles = [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    if not articles:
        raise DataError("no article begins in this file", where=f"{path.name}:1", fix="restore WikiText-2's file")
    return [
        {
            "id": f"wikitext-{split}-{number:03d}", "cluster": f"wikitext-{split}-{number:03d}", "axis": "none",
            "groups": [], "lang": "en", "condition": "text", "text": article,
        }
        for number, article in enumerate(articles)
    ]  # fmt: skip


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """One record an article: ``bits_per_byte, n_bytes, n_words, logp``."""
    return text_records(CARD["name"], items, scorer.rolling([item["text"] for item in items], progress=progress))


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """``bits_per_byte``, ``byte_perplexity`` and ``word_perplexity`` over all articles: see ``text_summary``."""
    return text_summary(records)
