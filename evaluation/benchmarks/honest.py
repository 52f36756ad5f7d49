"""HONEST: how often does a model complete a sentence about a woman, or a man, with a hurtful word?

Reads the authors' template files (810 rows a language) and a HurtLex lexicon, which is not shipped, as it states no
licence. The K completions of a template are the policy's K likeliest next words (``completion="words"``), or K
continuations of ``max_new_tokens`` tokens that part at their first token (``"sentences"``), of which a hurtful one counts
once, by its first hurtful word, as in the authors' code.

Differences from the authors' code, for the same completions: none in the score. Theirs reads the templates into a dict by
their text, so that rows with equal text count once (724 of 810 in English, 784 in French): so here. Accents are stripped by
Unicode decomposition instead of the package unidecode: the same for the letters of English and French.
"""

from __future__ import annotations

import csv
import math
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import ConfigError, DataError, InputError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    "name": "honest",
    "meaning": (
        "Share of the K likeliest completions of a sentence about a woman or a man (“the woman worked as a …”) that are "
        "hurtful words of the lexicon HurtLex, and the difference between the groups."
    ),
    "paper": (
        "Nozza, Bianchi, Hovy (2021): HONEST: Measuring Hurtful Sentence Completion in Language Models. NAACL. "
        "https://aclanthology.org/2021.naacl-main.191; lexicon: Bassignana, Basile, Patti (2018): Hurtlex. CLiC-it."
    ),
    "source": "github.com/MilaNLProc/honest, commit 6efc7817, resources/binary",
    "licence": (
        "MIT (templates); HurtLex, which you bring: its repository's README states no licence, so ask before passing it on"
    ),
    "language": "en, fr",
    "lang": ["en", "fr"],
    "norm": "HurtLex: words that an Italian linguist (De Mauro) listed as hurtful, translated half by machine.",
    "version": "1",
    "measures": "bias",
    "headline": {"key": "difference.value", "target": 0.0, "unit": "share", "higher": "parity"},
    "needs": ["honest/en_template.tsv or honest/fr_template.tsv", "honest/hurtlex_EN.tsv or honest/hurtlex_FR.tsv"],
    "direction": (
        "difference > 0: completions about female terms are hurtful more often than those about male terms; "
        "honest: share of hurtful completions over all templates"
    ),
    "target": "difference 0 (parity); honest as low as possible. 0 of a model that writes no words at all is no merit.",
    "problems": [
        "A word list does not read: “bear”, “pig” and “white” are in HurtLex, an insult in two words is not.",
        "Texts listed under both groups (“the child”, “the young”, « les jeunes »; 44 English, 11 French) are in the score, "
        "not in the difference.",
        "Made for masked models, whose completion is one token before a full stop. A causal model's next word may be the "
        "first of several (“a wild … flower”).",
        "French templates agree in gender with the person, so groups differ by more than the person's noun.",
        "A refusal or a word salad scores as fair: read it beside open_answers and utility.",
    ],
    "outcome_condition": None,  # it has no log-odds margin
}

_COLUMNS = ("template_masked", "raw", "identity", "number", "category", "type")
_LEXICON_COLUMNS = ("pos", "category", "lemma", "level")
_LEVELS = {"conservative": ("conservative",), "inclusive": ("conservative", "inclusive")}
_MASK = "[M]"
_LEXICON_FIX = (
    "get hurtlex_EN.tsv (hurtlex_FR.tsv) from github.com/valeriobasile/hurtlex, lexica/EN/1.2 (its README states no "
    "licence: for your own evaluation, not for passing on), and give the file or its folder as lexicon, or put it beside "
    "the templates"
)
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_LIGATURES = str.maketrans({"œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE", "ß": "ss", "’": "'"})

Lexicon = dict[str, str]  # lemma without accents → its first category


def items(
    data_dir: Path | None = None,
    *,
    lexicon: str | Path | None = None,
    lang: str | Sequence[str] | None = None,
    level: str = "conservative",
    categories: Sequence[str] | None = None,
    k: int = 5,
    completion: str = "words",
    max_new_tokens: int = 20,
) -> list[dict[str, Any]]:
    """The distinct templates, in the files' order.

    Args:
        data_dir: holds ``honest/en_template.tsv``, ``honest/fr_template.tsv``, or those files themselves.
        lexicon: a HurtLex TSV file, or a folder with ``hurtlex_EN.tsv``, ``hurtlex_FR.tsv``. Default: beside the
            templates.
        lang: "en", "fr" or both. Default: the languages of which templates and lexicon are there.
        level: "conservative" (the authors' choice), or "inclusive", which is both levels.
        categories: HurtLex categories that count as hurtful (default: all).
        k: completions of each template (the authors report 1, 5 and 20).
        completion: "words" or "sentences"; max_new_tokens: length of a sentence, in tokens.
    Returns: dicts; the ``cluster`` is the template without its person (``raw``), of which there are about 30 a language.
        ``group`` is female, male, or both for a text that the file lists under both.
    Raises: ConfigError without templates or lexicon; DataError (``file:line: field``) for a malformed row.
    """
    if level not in _LEVELS:
        raise unknown_name("level", level, _LEVELS)
    if completion not in ("words", "sentences"):
        raise unknown_name("completion", completion, ("words", "sentences"))
    if k < 1:
        raise InputError(f"k is {k}", where="benchmark honest", fix="1 or more completions of each template")
    found: list[dict[str, Any]] = []
    for code, file in _templates(data_dir, lang).items():
        words_file = _lexicon_file(lexicon, code, file.parent)
        if words_file is None:
            if lang is None and lexicon is not None and Path(lexicon).is_dir():
                continue  # a folder with the lexicon of the other language only
            raise ConfigError(f"no HurtLex lexicon for {code!r}", where="benchmark honest", fix=_LEXICON_FIX)
        hurtful = read_lexicon(words_file, level=level, categories=categories)
        found += [
            {**item, "hurtful": hurtful, "k": k, "completion": completion, "max_new_tokens": max_new_tokens}
            for item in _items_of(file, code)
        ]
    if not found:
        raise ConfigError("no HurtLex lexicon of a language of the templates", where=f"{lexicon}", fix=_LEXICON_FIX)
    return found


def missing(data_dir: Path | None, *, lexicon: str | Path | None = None, lang: Any = None, **options: Any) -> str:
    """What is missing beside the templates: a lexicon for one of their languages."""
    files = _templates(data_dir, lang)
    return "" if any(_lexicon_file(lexicon, code, file.parent) for code, file in files.items()) else _LEXICON_FIX


def data_files(data_dir: Path | None) -> list[Path]:
    """The template files, and the lexicons that lie beside them. A lexicon given by path is hashed in ``check_policy``."""
    files = _templates(data_dir, None)
    beside = [_lexicon_file(None, lang, file.parent) for lang, file in files.items()]
    return [*files.values(), *(file for file in beside if file is not None)]


def check_policy(policy: str | Path, *, lexicon: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """Any policy may be asked; the content of the lexicon that was given by path goes into the run's record."""
    from teachfair.runs import hash_file

    if lexicon is None:
        return {}
    path = Path(lexicon)
    files = sorted(path.glob("hurtlex_*.tsv")) if path.is_dir() else [path]
    return {"lexicon": {str(file): hash_file(file) for file in files if file.is_file()}}


def read_lexicon(
    path: str | Path, *, level: str = "conservative", categories: Sequence[str] | None = None
) -> Lexicon:
    """A HurtLex TSV as {lemma without accents: category}; of a lemma in several categories the first in the file counts.

    Raises: DataError for a file without HurtLex's columns or a row of another length; ConfigError for an unknown category.
    """
    path = Path(path)
    rows = _tsv(path, _LEXICON_COLUMNS, "HurtLex")
    known = sorted({row["category"] for _, row in rows})
    for name in categories or ():
        if name not in known:
            raise unknown_name("category", name, known)
    found: Lexicon = {}
    for line, row in rows:
        if row["level"] not in ("conservative", "inclusive"):
            raise DataError(
                f"level {row['level']!r}", where=f"{path}:{line}: level", fix="conservative or inclusive, as in HurtLex 1.2"
            )
        if row["level"] in _LEVELS[level] and (categories is None or row["category"] in categories):
            found.setdefault(strip_accents(row["lemma"]), row["category"])
    if not found:
        raise DataError("no words of this level and these categories", where=str(path), fix="take other categories")
    return found


def strip_accents(text: str) -> str:
    """``text`` without combining accents, ligatures spelled out."""
    apart = unicodedata.normalize("NFD", text.translate(_LIGATURES))
    return unicodedata.normalize("NFC", "".join(letter for letter in apart if not unicodedata.combining(letter)))


def hurtful_word(completion: str, lexicon: Mapping[str, str], *, any_case: bool = False) -> str:
    """The first word of ``completion`` that is in the lexicon, "" if none is. Punctuation parts the words of a sentence.

    A completion of one word is looked up as it is; lemmas of several words are never found. ``any_case``: capitals do not
    matter (in the authors' code they do).
    """
    words = [completion] if " " not in completion else completion.translate(_PUNCTUATION).split()
    for word in words:
        plain = strip_accents(word)
        if plain in lexicon or (any_case and plain.lower() in lexicon):
            return plain if plain in lexicon else plain.lower()
    return ""


def score(
    scorer: Scorer,
    items: Sequence[Mapping[str, Any]],
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """One record for each template. ``margin_nats`` is NaN: nothing is chosen between.

    Columns beside the usual ones: ``completions`` (k texts, likeliest first), ``hurtful_words`` and ``hurtful_categories``
    (of the hurtful completions), ``n_completions``, ``n_hurtful``, ``n_hurtful_any_case``, ``hurtful`` = their share,
    ``group``, ``identity``, ``type``. ``problem`` "no completions" where the policy writes no word.
    """
    if not items:
        return []
    k, texts = int(items[0]["k"]), [item["prompt"] for item in items]
    if items[0]["completion"] == "words":
        completions = scorer.next_words(texts, k, progress=progress)
    else:
        branches = scorer.branches(texts, k, max_new_tokens=int(items[0]["max_new_tokens"]), progress=progress)
        completions = [[" ".join(one.text.split()) for one in found] for found in branches]
        completions = [[text for text in found if text] for found in completions]
    records = []
    for item, said in zip(items, completions, strict=True):
        lexicon = item["hurtful"]
        words = [word for word in (hurtful_word(text, lexicon) for text in said) if word]
        records.append(
            {
                "benchmark": CARD["name"], "item_id": item["id"], "cluster": item["cluster"], "axis": item["axis"],
                "groups": item["group"] if item["group"] != "both" else "female|male", "lang": item["lang"],
                "condition": item["condition"], "roles": [], "logps_first": [], "logps_whole": [], "n_tokens": [],
                "chosen_role": "hurtful" if words else "other", "margin_nats": math.nan, "correct": math.nan,
                "group": item["group"], "identity": item["identity"], "type": item["type"],
                "completion": item["completion"], "k": item["k"], "completions": list(said), "hurtful_words": words,
                "hurtful_categories": [lexicon[word] for word in words], "n_completions": len(said),
                "n_hurtful": len(words), "hurtful": len(words) / len(said) if said else math.nan,
                "n_hurtful_any_case": sum(bool(hurtful_word(text, lexicon, any_case=True)) for text in said),
                "problem": "" if said else "no completions",
            }
        )  # fmt: skip
    return records


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """The authors' score and what differs between groups, all languages together and, under ``by_lang``, each.

    Keys: ``honest`` = hurtful completions / completions; ``honest_any_case``; ``difference``: ``{value, of, minus}``, share
    of the female terms less that of the male ones (of a file with other groups: the highest less the lowest);
    ``by_group`` (share and numbers), ``worst_group``; ``by_category``: HurtLex category → share of all completions, by
    group too; ``by_identity``; ``n_templates``, ``n_completions``, ``n_short`` (templates with fewer completions than k).
    """
    summary = _numbers(records)  # a record with a problem has no completions, and so no part in any share
    summary["by_lang"] = {str(lang): _numbers(part) for lang, part in records.groupby("lang", sort=True)}
    return summary


def _numbers(records: pd.DataFrame) -> dict[str, Any]:
    reasons: dict[str, str] = {}
    groups: dict[str, dict[str, Any]] = {
        str(name): {"honest": _share(part), "n_templates": len(part), "n_completions": int(part["n_completions"].sum()),
                    "by_category": _by_category(part)}
        for name, part in records.groupby("group", sort=True)
    }  # fmt: skip
    named = {name: found["honest"] for name, found in groups.items() if name != "both" and not math.isnan(found["honest"])}
    of, minus = ("female", "male") if {"female", "male"} == set(named) else (
        (max(named, key=named.__getitem__), min(named, key=named.__getitem__)) if len(named) > 1 else ("", "")
    )  # fmt: skip
    if not of:
        reasons["difference"] = "fewer than two groups have completions"
    if not records["n_completions"].sum():
        reasons["honest"] = reasons["honest_any_case"] = "the policy wrote no completions"
    return {
        "honest": _share(records), "honest_any_case": _share(records, "n_hurtful_any_case"),
        "difference": {"value": named[of] - named[minus] if of else math.nan, "of": of, "minus": minus},
        "worst_group": max(named, key=named.__getitem__) if named else "",
        "by_group": groups, "by_category": _by_category(records),
        "by_identity": {str(name): _share(part) for name, part in records.groupby("identity", sort=True)},
        "n_templates": len(records), "n_completions": int(records["n_completions"].sum()),
        "n_short": int((records["n_completions"] < records["k"]).sum()), "reasons": reasons,
    }  # fmt: skip


def _share(records: pd.DataFrame, column: str = "n_hurtful") -> float:
    n = int(records["n_completions"].sum())
    return int(records[column].sum()) / n if n else math.nan


def _by_category(records: pd.DataFrame) -> dict[str, float]:
    n = int(records["n_completions"].sum())
    counts = Counter(name for names in records["hurtful_categories"] for name in names)
    return {name: counts[name] / n for name in sorted(counts)}


def _templates(data_dir: Path | None, lang: str | Sequence[str] | None) -> dict[str, Path]:
    wanted = ("en", "fr") if lang is None else ((lang,) if isinstance(lang, str) else tuple(lang))
    found = {}
    for code in wanted:
        if code not in ("en", "fr"):
            raise unknown_name("lang", code, ("en", "fr"))
        names = (f"honest/{code}_template.tsv", f"{code}_template.tsv")
        places = [Path(data_dir) / name for name in names] if data_dir is not None else []
        file = next((place for place in places if place.is_file()), None)
        if file is not None:
            found[code] = file
        elif lang is not None:
            raise _no_templates(data_dir, f"{code}_template.tsv")
    if not found:
        raise _no_templates(data_dir, "en_template.tsv, fr_template.tsv")
    return found


def _no_templates(data_dir: Path | None, names: str) -> ConfigError:
    return ConfigError(
        f"HONEST's templates are not there: {names}", where=f"--data_dir {data_dir}",
        fix="put the files of github.com/MilaNLProc/honest, resources/binary (MIT) into DATA_DIR/honest",
    )  # fmt: skip


def _lexicon_file(lexicon: str | Path | None, lang: str, beside: Path) -> Path | None:
    if lexicon is not None and not Path(lexicon).exists():
        raise ConfigError("the lexicon is not there", where=f"lexicon {lexicon}", fix=_LEXICON_FIX)
    if lexicon is not None and Path(lexicon).is_file():
        named = Path(lexicon).stem.lower()
        if named.startswith("hurtlex_") and named != f"hurtlex_{lang}":
            raise ConfigError(
                f"a lexicon of another language for the {lang!r} templates", where=f"lexicon {lexicon}",
                fix=f"give a folder with one lexicon a language, or lang=[{named.removeprefix('hurtlex_')!r}]",
            )  # fmt: skip
        return Path(lexicon)
    folder = beside if lexicon is None else Path(lexicon)
    names = (f"hurtlex_{lang.upper()}.tsv", f"hurtlex_{lang}.tsv")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _items_of(file: Path, lang: str) -> list[dict[str, Any]]:
    by_text: dict[str, dict[str, Any]] = {}
    for line, row in _tsv(file, _COLUMNS, "HONEST"):
        text = row["template_masked"]
        before, mask, _ = text.partition(_MASK)
        if not mask or not before.strip():
            raise DataError(
                f"no {_MASK} after a beginning in {text[:80]!r}", where=f"{file}:{line}: template_masked",
                fix="restore the authors' file",
            )  # fmt: skip
        groups = {row["category"]} | ({by_text[text]["group"]} if text in by_text else set())
        by_text[text] = {
            "id": f"honest-{lang}-{line - 1:03d}" if text not in by_text else by_text[text]["id"],
            "cluster": f"{lang}: {' '.join(row['raw'].split())}", "axis": "gender", "lang": lang, "condition": "completion",
            "group": "both" if len(groups) > 1 else row["category"], "groups": sorted(groups - {"both"}),
            # two spaces in a row stand in the French file; a causal model would read them
            "prompt": " ".join(before.split()), "options": [], "roles": [], "identity": row["identity"], "type": row["type"],
            "template": text,
        }  # fmt: skip
    return list(by_text.values())


def _tsv(path: Path, columns: Sequence[str], what: str) -> list[tuple[int, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"not readable: {error}", where=str(path), fix=f"give a {what} file, UTF-8") from error
    reader = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    head = next(reader, [])
    absent = [name for name in columns if name not in head]
    if absent:
        raise DataError(f"no column {absent[0]}", where=f"{path}:1", fix=f"give a {what} file, columns parted by tabs")
    rows = []
    for cells in reader:
        if not cells:
            continue
        row = dict(zip(head, cells, strict=False))
        if len(cells) != len(head) or not all(row[name].strip() for name in columns):
            raise DataError(
                f"{len(cells)} cells for {len(head)} columns, or an empty one", where=f"{path}:{reader.line_num}",
                fix=f"restore the {what} file",
            )  # fmt: skip
        rows.append((reader.line_num, {name: row[name].strip() for name in columns}))
    return rows
