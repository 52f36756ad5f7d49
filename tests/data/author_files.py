"""Small files in the authors' formats, made up: nothing in them is a benchmark's row."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any


def crows_row(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "": str(number), "sent_more": f"Wugs number {number} are loud.", "sent_less": f"Daxes number {number} are loud.",
        "stereo_antistereo": "antistereo" if number % 3 == 0 else "stereo",
        "bias_type": ("race-color", "age", "gender")[number % 3], "annotations": "[]", **changed,
    }  # fmt: skip


def revised_row(number: int, **changed: Any) -> dict[str, Any]:
    row = crows_row(number)
    return {"id": row.pop(""), **{name: row[name] for name in row if name != "annotations"}, **changed}


def csv_text(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def stereoset_record(number: int, *, labelled: bool = True, **changed: Any) -> dict[str, Any]:
    texts = {
        "stereotype": f"The wug {number} can shout.",
        "anti-stereotype": f"The wug {number} can whisper.",
        "unrelated": f"The wug {number} can tuesday.",
    }
    record: dict[str, Any] = {
        "id": f"r{number}", "target": "wug", "bias_type": ("race", "gender")[number % 2],
        "context": f"The wug {number} can BLANK.",
    }  # fmt: skip
    if labelled:
        record["sentences"] = [
            {"sentence": text, "id": f"{number}-{label}", "labels": [], "gold_label": label} for label, text in texts.items()
        ]
    else:
        record["data"] = {label: {"sentence": text, "id": f"{number}-{label}"} for label, text in texts.items()}
    return {**record, **changed}


def bbq_record(
    number: int, *, condition: str = "ambig", polarity: str = "neg", label: int | None = None, **changed: Any
) -> Any:
    """The wug (ans0) is of the stereotyped group, the dax (ans1) is not, ans2 is unknown."""
    return {
        "example_id": number, "question_index": str(number % 4), "question_polarity": polarity,
        "context_condition": condition,
        "category": "Age",
        "answer_info": {"ans0": ["wug", "old"], "ans1": ["dax", "nonOld"], "ans2": ["Not known", "unknown"]},
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["old"], "version": "a", "source": ""},
        "context": f"Wug and dax {number} came in.", "question": "Who sang?", "ans0": "The wug ", "ans1": "The dax",
        "ans2": "Not known", "label": label if label is not None else (2 if condition == "ambig" else number % 2), **changed,
    }  # fmt: skip


def hh_row(number: int, **changed: Any) -> dict[str, Any]:
    start = f"\n\nHuman: Hello {number}?\n\nAssistant: Hm.\n\nHuman: And?\n\nAssistant: "
    return {"chosen": f"{start}Kindly, no.\n\n1. First\n2. Second", "rejected": f"{start}Rudely, no.", **changed}


def jigsaw_rows(names: tuple[str, ...] = ("Ann", "Ben")) -> list[dict[str, Any]]:
    rows = []
    for toxicity, words in (("nontoxic", ("great", "kind")), ("toxic", ("awful", "bad"))):
        for name in names:
            for word in words:
                for identity in ("deaf", "middle aged"):
                    phrase = f"{name} is a {word} {identity}"
                    rows.append({"template": "name_adj", "toxicity": toxicity, "phrase": phrase})
        rows.append({"template": "you_occupation", "toxicity": toxicity, "phrase": f"You are a {words[0]} web designer"})
    return rows


def winobias_files(pairs: list[tuple[str, str]] | None = None) -> dict[str, str]:
    """File name -> text of type1, dev; pro and anti lines without their numbers."""
    pairs = pairs or [
        (
            "[The developer] met the designer because [he] had time.",
            "[The developer] met the designer because [she] had time.",
        ),
        ("The developer met [the designer]  because [she] came. ", "The developer met [the designer] because [he] came."),
        ("[The CEO] saw the the cleaner and [he] left.", "[The CEO] saw the the cleaner and [she] left."),
    ]
    return {
        f"{side}_stereotyped_type1.txt.dev": "".join(f"{n} {line[at]}\n" for n, line in enumerate(pairs, start=1))
        for at, side in enumerate(("pro", "anti"))
    }


HOLISTIC = {
    "descriptors": {
        "ability": {"hearing": [{"descriptor": "Deaf", "preference": "reviewed"}, "old-fashioned"]},
        "religion": {"all": [{"descriptor": "Unitarian", "article": "a"}]},
        "nonce": {"all": ["blicket", {"descriptor": "daxy", "gender": "female"}]},
    },
    "nouns": {"female": [["woman", "women"]], "male": [["man", "men"]], "neutral": [["person", "people"]]},
    "sentence_templates": {
        "I'm {noun_phrase}.": {}, "I wonder what it'd be like to be {noun_phrase}.": {},
        "What about {plural_noun_phrase}?": {"must_be_noun": True}, "I hate {plural_noun_phrase}.": {},
        "I love being {noun_phrase}.": {},
    },
    "standalone_noun_phrases": {
        "ability": [
            {"noun_phrase": "{article} {noun} who stutters", "plural_noun_phrase": "{article} {noun} who stutter"},
            {"noun_phrase": "a wheelchair user"},
            "{article} {noun} with asthma",
        ]
    },
}  # fmt: skip


def write(folder: Path, name: str, content: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


def write_json(folder: Path, name: str, value: Any) -> Path:
    return write(folder, name, json.dumps(value))


def write_lines(folder: Path, name: str, rows: list[Any]) -> Path:
    return write(folder, name, "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def write_holistic(folder: Path, prefix: str = "holistic_bias__dataset__v1.1__", **changed: Any) -> Path:
    for part, document in {**HOLISTIC, **changed}.items():
        write_json(folder, f"{prefix}{part}.json", document)
    return folder


def write_winobias(folder: Path, pairs: list[tuple[str, str]] | None = None) -> Path:
    for name, text in winobias_files(pairs).items():
        write(folder, name, text)
    return folder
