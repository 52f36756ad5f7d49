"""Out of source: a reward model trained on one source of pairs, tested on every other.

Sources overlap (StereoSet's pairs are in two, CrowS-Pairs' in two), so every test row that matches a row of the training
source is left out and counted; without that, "out of source" is partly memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import ConfigError
from teachfair.reward_models.audit_accuracy import scored_pairs
from teachfair.reward_models.audit_intervals import cluster_mean

if TYPE_CHECKING:
    from datasets import Dataset

STEPS = 200
ALL_LEAK = "every test pair matches a training pair"


def source_splits(
    sources: Mapping[str, Dataset], *, test_share: float = 0.3, max_train: int = 2000, max_test: int = 600, seed: int = 0
) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """name -> (training rows, test rows), apart by whole clusters; a cluster is on the same side in every source.

    Raises: ConfigError if a source has too few clusters for two sides.
    """
    from teachfair.data.gathering import in_test

    found = {}
    for name, pairs in sources.items():
        rows: tuple[list[int], list[int]] = ([], [])
        for number, cluster in enumerate(pairs["cluster"]):
            rows[in_test(f"{seed}/{cluster}", test_share)].append(number)
        sides = []
        for numbers, limit in zip(rows, (max_train, max_test), strict=True):
            draw = np.random.default_rng([seed, limit])
            kept = sorted(draw.permutation(numbers)[:limit].tolist()) if len(numbers) > limit else numbers
            sides.append([dict(pairs[int(number)]) for number in kept])
        if not sides[0] or not sides[1]:
            raise ConfigError(
                f"{name} has {len(set(pairs['cluster']))} clusters: one side of a split would be empty",
                where="--out_of_source", fix="leave it out, or choose another --seed",
            )  # fmt: skip
        found[name] = (sides[0], sides[1])
    return found


def leaking(train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(n_test,) True where a test row matches a training row (``data.wall``: exact, template, near-duplicate …)."""
    from teachfair.data.wall import wall

    # the wall marks the rows of its first argument
    return np.asarray(wall(list(test), {"train": list(train)}).leaking, dtype=bool)


def out_of_source(
    splits: Mapping[str, tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]],
    train: Callable[[str, Dataset], Path],
    *,
    backbone: str,
    steps: int,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """The matrix trained on × tested on.

    Args:
        splits: of :func:`source_splits`.
        train: (source, training pairs) -> a reward-model folder (:func:`trained_in` makes one that resumes).
        backbone, steps: how they were trained, for the page.

    Returns: ``sources, trained_on`` (source -> n pairs), ``backbone, steps``, ``cells``: dicts ``trained_on, tested_on,
        leaking`` (test pairs left out), ``too_long`` and the entries of ``cluster_mean``: accuracy on what is left.
    """
    from teachfair.data.pairs import pairs_dataset
    from teachfair.reward_models.scoring import RewardModel

    cells = []
    for name, (rows, _) in splits.items():
        model = RewardModel.load(train(name, pairs_dataset([dict(row) for row in rows])))
        for other, (_, test) in splits.items():
            leaks = leaking(rows, test)
            kept = [dict(row) for row, leak in zip(test, leaks, strict=True) if not leak]
            fits = [row for row in kept if _reads(model, row)]
            cell: dict[str, Any] = {"trained_on": name, "tested_on": other, "leaking": int(leaks.sum())}
            cell["too_long"] = len(kept) - len(fits)
            if fits:
                scored = scored_pairs(fits, *model.score_pairs(pairs_dataset(fits), batch_size=batch_size))
                cell |= cluster_mean([row["win"] for row in scored], [row["cluster"] for row in scored], seed=seed)
            else:
                cell |= cluster_mean([], []) | {"reason": ALL_LEAK if not kept else "all of them are too long"}
            cells.append(cell)
    return {
        "sources": list(splits), "trained_on": {name: len(rows) for name, (rows, _) in splits.items()},
        "backbone": backbone, "steps": steps, "cells": cells,
    }  # fmt: skip


def _reads(model: Any, row: Mapping[str, Any]) -> bool:
    return all(len(model.token_ids([*row["prompt"], *row[side]])) <= model.max_tokens for side in ("chosen", "rejected"))


def trained_in(
    folder: Path, backbone: str | Path, *, steps: int = STEPS, seed: int = 0, **options: Any
) -> Callable[[str, Dataset], Path]:
    """A trainer that keeps each source's reward model under ``folder`` and does not train a finished one again.

    The folder's name holds a fingerprint of backbone, pairs and arguments: other ones make another folder. ``options`` go
    to ``training.reward_args``.
    """
    from teachfair.reward_models.training import train_reward_model
    from teachfair.runs import fingerprint, read_record

    def train(name: str, pairs: Dataset) -> Path:
        content = [[row["prompt"], row["chosen"], row["rejected"]] for row in pairs]
        decides = [str(backbone), content, steps, seed, json.dumps(options, sort_keys=True, default=str)]
        out = folder / f"{name}-{fingerprint(decides)[:12]}"
        if read_record(out) is not None:
            return out
        settings = {"disable_tqdm": True, "lr_scheduler_type": "cosine", "warmup_steps": 10, **options}
        return train_reward_model(backbone, pairs, None, out, max_steps=steps, seed=seed, **settings)

    return train
