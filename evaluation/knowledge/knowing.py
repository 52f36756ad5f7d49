"""Does a model still know? Its answers, its hidden states and an amnesic check beside the untaught model's, as one dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import ConfigError
from teachfair.evaluation.benchmarks import get
from teachfair.evaluation.knowledge.erasing import fit_erasers
from teachfair.evaluation.knowledge.group_texts import built_in_texts, sandbox_texts
from teachfair.evaluation.knowledge.hidden_states import changed_at, hidden_states
from teachfair.evaluation.knowledge.probing import Decodability, clustered, decodability
from teachfair.evaluation.knowledge.verdict import LOST, SMALL, TOLERANCE, verdict
from teachfair.models.scorer import PolicyScorer, load_scorer

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.data.sandbox.world import SandboxConfig
    from teachfair.evaluation.knowledge.hidden_states import GroupText

BUILT_IN = ("definitional", "utility")  # need no files; a bias benchmark has to be named beside them
RANDOM_DIRECTIONS = 3  # draws of the amnesic check's control
_AWARE, _BIASED = ("definitional", "anaphor"), ("ambiguous", "parity")


def knowledge(
    policy: str | Path,
    untaught: str | Path,
    *,
    axis: str = "gender",
    benchmarks: Sequence[Any] | None = None,
    data_dir: str | Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    world: SandboxConfig | None = None,
    texts: Sequence[GroupText] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str | None = None,
    tolerance: float = TOLERANCE,
    lost: float = LOST,
    small: float = SMALL,
) -> dict[str, Any]:
    """What ``policy`` still knows of a group, against ``untaught``, JSON-able. The verdict's meaning: ``verdict.py``.

    Args:
        axis: the groups that are asked about. Records of other axes are left out where a benchmark has this one.
        benchmarks, data_dir, options: as in ``evaluate``. Default: ``sandbox`` with a world, ``BUILT_IN`` without.
        world: both models are sandbox policies of this world: texts and items are its own.
        texts: whose states are probed. Default: the world's names, or the built-in English names.
        seed: of folds, control labels and random directions.
        tolerance, lost, small: thresholds of the verdict.
    Returns: keys ``verdict, reasons, changes, thresholds`` (of the verdict), ``axis``, ``policy``/``untaught`` (each with
        ``name, decodability, amnesic``), ``benchmarks`` (name -> items), ``seed``.
    Raises: ConfigError for a masked language model, and for texts without the axis; what ``evaluate`` raises.
    """
    if benchmarks is None:
        benchmarks = BUILT_IN if world is None else ("sandbox",)
    modules = [get(one) for one in benchmarks]
    options = dict(options or {})
    if world is not None:
        options.setdefault("sandbox", {"world": world})
    items = {m.CARD["name"]: m.items(data_dir, **dict(options.get(m.CARD["name"], {}))) for m in modules}
    sides: dict[str, tuple[pd.DataFrame, Decodability, dict[str, Any]]] = {}
    for side, path in (("policy", policy), ("untaught", untaught)):
        scorer = load_scorer(path, dtype=dtype, device=device, strict=False)
        if not isinstance(scorer, PolicyScorer):
            raise ConfigError(
                "a masked language model", where=str(path), fix="probe a causal one: words are read from left to right here"
            )
        asked = _texts(scorer, world) if texts is None else texts
        if any(axis not in text.groups for text in asked):
            raise ConfigError(
                f"not every text has a group on axis {axis!r}", where="texts",
                fix=f"axes: {', '.join(sorted({a for text in asked for a in text.groups}))}",
            )  # fmt: skip
        records = _records(scorer, modules, items, axis)
        probe = decodability(hidden_states(scorer.model, scorer.tokenizer, asked), asked, axis, seed=seed)
        sides[side] = records, probe, _amnesic(scorer, modules, items, axis, asked, records, seed)
    found = verdict(
        sides["policy"][0], sides["untaught"][0], sides["policy"][1], sides["untaught"][1],
        tolerance=tolerance, lost=lost, small=small,
    )  # fmt: skip
    return found.as_dict() | {
        "axis": axis, "seed": seed, "benchmarks": {name: len(found) for name, found in items.items()},
        **{
            side: {"name": str(path), "decodability": sides[side][1].as_dict(), "amnesic": sides[side][2]}
            for side, path in (("policy", policy), ("untaught", untaught))
        },
    }  # fmt: skip


def _texts(scorer: PolicyScorer, world: SandboxConfig | None) -> list[GroupText]:
    from teachfair.data.sandbox.world import World

    return built_in_texts(("en",)) if world is None else sandbox_texts(World(world), scorer.tokenizer)


def _records(
    scorer: PolicyScorer, modules: Sequence[Any], items: Mapping[str, list[Any]], axis: str, conditions: Sequence[str] = ()
) -> pd.DataFrame:
    import pandas as pd

    frames = []
    for module in modules:
        found = [item for item in items[module.CARD["name"]] if not conditions or item.get("condition") in conditions]
        if any(item.get("axis") == axis for item in found):
            found = [item for item in found if item.get("axis") in (axis, "none")]
        if found:
            frames.append(pd.DataFrame(module.score(scorer, found)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"condition": []})


def _amnesic(
    scorer: PolicyScorer,
    modules: Sequence[Any],
    items: Mapping[str, list[Any]],
    axis: str,
    texts: Sequence[GroupText],
    intact: pd.DataFrame,
    seed: int,
) -> dict[str, Any]:
    """Do answers change when the group is erased from all layers, more than when random directions are?

    Source: Elazar et al. 2021 (amnesic probing, arXiv:2006.00995). Mean of ``correct`` over definitional items and of
    ``margin_nats`` over ambiguous ones: intact, with the group erased, with random directions of equal rank erased;
    ``effect``: erased − random, paired, 95 % over clusters.
    """
    conditions = (*_AWARE, *_BIASED)
    runs = []
    for draw in (None, *range(RANDOM_DIRECTIONS)):
        erasers = fit_erasers(
            scorer.model, scorer.tokenizer, texts, axis,
            random_seed=None if draw is None else seed * RANDOM_DIRECTIONS + draw,
        )  # fmt: skip
        with changed_at(scorer.model, {site: eraser.on_tensors() for site, eraser in erasers.items()}):
            runs.append((erasers, _records(scorer, modules, items, axis, conditions)))
    found: dict[str, Any] = {"directions": sum(eraser.rank for eraser in runs[0][0].values())}
    for name, wanted, column in (("awareness", _AWARE, "correct"), ("bias", _BIASED, "margin_nats")):
        keys = ["benchmark", "item_id"]
        columns = [frame[frame["condition"].isin(wanted)].set_index(keys)[column] for _, frame in runs if len(frame)]
        rows = intact[intact["condition"].isin(wanted)].set_index(keys)
        if not columns or rows.empty:
            continue
        random = sum(columns[1:]) / RANDOM_DIRECTIONS
        effect = (columns[0] - random).dropna()
        if effect.empty:
            continue
        clusters = rows.loc[effect.index, "cluster"].astype(str).tolist()
        found[name] = {
            "intact": float(rows[column].mean()), "erased": float(columns[0].mean()), "random": float(random.mean()),
            "effect": clustered(effect.to_numpy(dtype=float), clusters).as_dict(),
        }  # fmt: skip
    return found
