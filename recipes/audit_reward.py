"""Audit a fairness reward model: what it may be used for, and what not.

    python recipes/audit_reward.py
    python recipes/audit_reward.py --model_name_or_path runs/reward_model --dataset_name held_out.jsonl --data_dir data \\
        --output_dir runs/audit
    python recipes/audit_reward.py --model_name_or_path runs/reward_model --dataset_source winobias crows_pairs \\
        --dataset_name data/winobias data/crows_pairs --out_of_source winobias crows_pairs --data_dir data

Accuracy per axis, kind, source and language beside rulers that understand nothing; calibration; false "unfair" rates per
group (Jigsaw templates and HolisticBias, where --data_dir holds them); counterfactual invariance; robustness; hardest pairs;
shortcuts named from its behaviour; accuracy out of source. Writes audit.html, audit.json and run.json. Without arguments:
the sandbox's reward model on pairs of people, occupations and templates that it has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachfair.data import PAIR_SOURCES
from teachfair.doors import Door, argument, comma_list

TEXTS = ("jigsaw_identity_templates", "holistic_bias")


@dataclass
class AuditRewardArguments:
    """Which reward model, on what, and where the page goes."""

    model_name_or_path: str | None = argument("reward-model folder or hub id. Default: the sandbox's")
    dataset_name: list[str] = argument(
        "held-out pairs: files, folders or hub ids, one for each dataset_source. Default: the sandbox's held-out pairs", []
    )
    dataset_source: list[str] = argument(
        f"sources that read them, one or several: {', '.join(PAIR_SOURCES)}. Default: preference_file", []
    )
    dataset_split: str = argument("split to audit on; the model must not have been trained on it", "train")
    exclude_ids: str | None = argument("file with the ids, one a line, of contested pairs to leave out")
    data_dir: str | None = argument(
        "folder with jigsaw_identity_templates and holistic_bias (each is skipped, and said to be, where it is absent) and "
        "with the folders of out_of_source"
    )
    max_pairs: int = argument("audit on at most this many pairs of each source, drawn with --seed (0 = all)", 1000)
    max_texts: int = argument("at most this many texts of each source of texts", 4000)
    out_of_source: list[str] = argument(
        "sources to train one reward model each on and test on all the others: names (folders of that name in data_dir), or "
        "name=folder. Default: none", []
    )  # fmt: skip
    backbone: str | None = argument("out of source: what to train from. Default: the audited model's own base")
    out_of_source_steps: int = argument("out of source: optimiser steps of each reward model", 200)
    output_dir: str = argument(
        "folder to make; models trained out of source go beside it, in <output_dir>-sources", "runs/audit_reward"
    )
    batch_size: int = argument("texts scored together", 64)
    seed: int = argument("seed of what is drawn, and of the intervals", 0)
    world_seed: int = argument("sandbox: seed of the world", 0)
    bias: float = argument("sandbox: planted association, log-odds", 2.0)


def run(own: AuditRewardArguments) -> None:
    """Load model, pairs and texts; audit; write the page."""
    from teachfair import runs
    from teachfair.alignment import lesson
    from teachfair.reward_models.audit_page import audit_lines, audit_page
    from teachfair.reward_models.auditing import audit_reward, with_out_of_source
    from teachfair.reward_models.ensemble import load_reward_model

    with runs.whole_folder(own.output_dir) as out:  # a folder that is in use is told before anything is scored
        sandbox = lesson.sandbox(seed=own.world_seed, bias=own.bias)  # a config: nothing is made yet
        path = own.model_name_or_path or lesson.sandbox_reward_model(sandbox)
        model = load_reward_model(path)
        pairs, options = (_pairs(own), {}) if own.dataset_name else _sandbox_pairs(own, sandbox)
        pairs, seen = _unseen(pairs, path)
        texts, skipped = _texts(own)
        audit = audit_reward(
            model, pairs, texts=texts, skipped=skipped, seen=seen, seed=own.seed, batch_size=own.batch_size, **options
        )
        if own.out_of_source:
            audit = with_out_of_source(audit, _out_of_source(own, path))
        runs.write_json(out / "audit.json", audit)
        runs.write_text(out / "audit.html", audit_page(audit, f"Reward-model audit: {Path(path).name}"))
        runs.write_record(
            out, what="audit-reward", model=str(path), pairs=audit["pairs"], skipped=skipped, seed=own.seed,
            verdict={key: len(found) for key, found in audit["verdict"].items()},
        )  # fmt: skip
    print("\n".join(audit_lines(audit)))
    print(f"audit: {Path(own.output_dir) / 'audit.html'}")


def _pairs(own: AuditRewardArguments) -> list[dict[str, Any]]:
    from teachfair.errors import ConfigError

    names = comma_list(own.dataset_name)
    sources = comma_list(own.dataset_source) or ["preference_file"] * len(names)
    if len(names) != len(sources):
        raise ConfigError(
            f"{len(names)} data sets for {len(sources)} sources", where="--dataset_name, --dataset_source",
            fix="give one --dataset_name for each --dataset_source, in the same order",
        )  # fmt: skip
    found = []
    for source, name in zip(sources, names, strict=True):
        pairs = _source(source, name, own, split=own.dataset_split)
        if own.max_pairs and len(pairs) > own.max_pairs:
            pairs = pairs.shuffle(seed=own.seed).select(range(own.max_pairs))
        found += list(pairs)
    return found


def _unseen(pairs: list[dict[str, Any]], path: Any) -> tuple[list[dict[str, Any]], int | None]:
    """The pairs that the model was not trained on, and how many it was; None where its folder does not say."""
    from teachfair.errors import DataError
    from teachfair.reward_models.seen import digest, seen_by

    known = seen_by(path)
    if known is None:
        return pairs, None
    kept = [pair for pair in pairs if digest(pair) not in known]
    if pairs and not kept:
        raise DataError(
            f"the reward model was trained on all {len(pairs)} pairs", where=f"{path}/trained_on.txt",
            fix="audit it on other pairs: --dataset_split, or a file of pairs that it has not seen",
        )  # fmt: skip
    return kept, len(pairs) - len(kept)


def _source(source: str, name: str, own: AuditRewardArguments, *, split: str) -> Any:
    from teachfair.data import SOURCES
    from teachfair.errors import unknown_name

    if source not in PAIR_SOURCES:
        raise unknown_name("dataset_source", source, PAIR_SOURCES)
    options: dict[str, Any] = {} if own.exclude_ids is None else {"exclude_ids": own.exclude_ids}
    return SOURCES[source].load(None if source == "sandbox" else name, split=split, **options)


def _sandbox_pairs(own: AuditRewardArguments, sandbox: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Held-out pairs of the sandbox, and what the sandbox knows of its people."""
    from teachfair.alignment import lesson
    from teachfair.data.pairs import pairs_dataset
    from teachfair.reward_models.audit_invariance import sandbox_swapping
    from teachfair.reward_models.audit_sandbox import group_of_answer, sandbox_changes

    world = lesson.world(sandbox)
    pairs = list(pairs_dataset(world.pairs(own.max_pairs or 1000, split="test", seed=1000 + own.seed)))
    return pairs, {
        "swapping": sandbox_swapping(world), "groups_of": group_of_answer(world), "changes": sandbox_changes(),
        "ruler_pairs": list(pairs_dataset(world.pairs(2000, split="train", seed=1000 + own.seed))),
    }  # fmt: skip


def _texts(own: AuditRewardArguments) -> tuple[dict[str, Any], dict[str, str]]:
    from teachfair.reward_models.audit_groups import source_texts

    texts, skipped = {}, {}
    for name in TEXTS:
        folder = Path(own.data_dir or "") / name
        if own.data_dir is None:
            skipped[name] = "not audited, no --data_dir was given"
        elif not folder.is_dir():
            skipped[name] = f"not audited, there is no {name} in --data_dir"
        else:
            texts[name] = source_texts(name, str(folder), limit=own.max_texts, seed=own.seed)
    return texts, skipped


def _out_of_source(own: AuditRewardArguments, model: str | Path) -> dict[str, Any]:
    from teachfair import runs
    from teachfair.errors import ConfigError
    from teachfair.reward_models.audit_sources import out_of_source, source_splits, trained_in

    backbone = own.backbone or str(((runs.read_record(model) or {}).get("base") or {}).get("path") or "")
    if not backbone:
        raise ConfigError(
            "the audited model's folder does not say what it was trained from", where=str(model),
            fix="name a base with --backbone",
        )  # fmt: skip
    sources = {}
    for entry in comma_list(own.out_of_source):
        name, _, folder = entry.partition("=")
        if not folder and own.data_dir is None and name != "sandbox":
            raise ConfigError(
                f"where the files of {name} are is not known", where="--out_of_source",
                fix=f"give --data_dir, or {name}=FOLDER",
            )  # fmt: skip
        sources[name] = _source(name, folder or str(Path(own.data_dir or "") / name), own, split="train")
    folder_of_models = Path(f"{own.output_dir}-sources")
    return out_of_source(
        source_splits(sources, seed=own.seed),
        trained_in(folder_of_models, backbone, steps=own.out_of_source_steps, seed=own.seed),
        backbone=backbone, steps=own.out_of_source_steps, seed=own.seed, batch_size=own.batch_size,
    )  # fmt: skip


door = Door("audit-reward", __doc__, AuditRewardArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
