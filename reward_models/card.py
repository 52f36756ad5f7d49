"""The model card of a reward model: README.md with ``model-index``, and ``.eval_results`` for the hub.

Everything in it comes from the run record and the cards of the sources. Text from data is escaped where it is put in.
"""

from __future__ import annotations

import html
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.errors import RunFolderError
from teachfair.hub_card import HUB_ID, escaped, is_hub_id, number, one_line, write_eval_results

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry, ModelCard

EVAL_RESULTS = Path(".eval_results") / "teachfair.yaml"
TASK = "teachfair_pair_accuracy"  # of an .eval_results entry: the benchmark's own tasks are other ones

# A licence as the sources' cards name it -> its identifier on the hub.
_LICENCES = {
    "Apache-2.0": "apache-2.0", "MIT": "mit", "CC BY 4.0": "cc-by-4.0", "CC BY-SA 4.0": "cc-by-sa-4.0", "CC0": "cc0-1.0",
}  # fmt: skip


def write_card(folder: str | Path, record: Mapping[str, Any] | None = None, *, name: str | None = None) -> Path:
    """Write ``README.md`` and, where a source is a data set of the hub, ``.eval_results/teachfair.yaml``.

    Args:
        record: the run record; None reads the folder's. name: of the model; None takes the folder's.
    Raises: RunFolderError if the folder has no complete record.
    """
    folder = Path(folder)
    record = record if record is not None else runs.read_record(folder)
    if record is None:
        raise RunFolderError(
            "the folder has no complete run.json, from which the card is made",
            where=str(folder), fix="give a folder made by recipes/reward_model.py",
        )  # fmt: skip
    card = model_card(record, name=name or folder.resolve().name)
    entries = eval_result_entries(record)
    if entries:
        write_eval_results(folder / EVAL_RESULTS, entries)
    return runs.write_text(folder / "README.md", str(card))


def model_card(record: Mapping[str, Any], *, name: str) -> ModelCard:
    """The card of a reward model's run record, as huggingface_hub holds it. Pure but for the time of day."""
    import jinja2
    from huggingface_hub import ModelCard, ModelCardData

    train = record["data"]["train"]
    coverage = record.get("coverage") or {}
    base = str((record.get("base") or {}).get("path") or "")
    licences = sorted({_licence(row["licence"]) for row in train["sources"].values()})
    one = _LICENCES.get(licences[0]) if len(licences) == 1 else None
    results = eval_results(record)
    languages = (coverage.get("train") or {}).get("languages") or {}
    data = ModelCardData(
        language=[lang for lang in languages if re.fullmatch("[a-z]{2,3}", lang)] or None,
        license=one or "other",
        license_name=None if one else "; ".join(licences),
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base if is_hub_id(base) else None,
        datasets=sorted({hub for source in train["sources"] if (hub := _source_card(source).get("hub"))}) or None,
        tags=["fairness", "bias", "reward-model", "trl", "teachfair"],
        metrics=["accuracy", "brier_score"] if results else None,
        model_name=one_line(name) if results else None,
        eval_results=results or None,
    )
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    # every value that is put in is escaped, unless it is Markup already
    body = jinja2.Environment(finalize=escaped, autoescape=False, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + body.render(_for_template(record, name)))


def eval_results(record: Mapping[str, Any]) -> list[EvalResult]:
    """The entries of ``model-index``: accuracy per kind with n and interval, and ECE and Brier score after calibration."""
    from huggingface_hub import EvalResult

    sources = sorted((record.get("data_eval") or {}).get("sources") or {})
    ids = {_source_card(source).get("hub") for source in sources}
    data: dict[str, Any] = {
        "task_type": "text-classification",
        "task_name": "which of two answers is fair",
        "dataset_type": ids.pop() if len(ids) == 1 and None not in ids else "preference-pairs",
        "dataset_name": one_line(f"held-out pairs: {', '.join(sources)}"),
        "dataset_split": "held-out",
    }
    found = []
    for row in record.get("accuracy") or []:
        interval = f"95 % interval {row['low']:.3f} to {row['high']:.3f}, n = {row['n']}"
        found.append(EvalResult(
            **data, dataset_config=one_line(row["kind"]), metric_type="accuracy", metric_value=round(row["accuracy"], 4),
            metric_name=f"accuracy ({interval})",
        ))  # fmt: skip
    after = (record.get("calibration_report") or {}).get("after") or {}
    for key, label in (("ece", f"expected calibration error, {after.get('bins')} bins"), ("brier", "Brier score")):
        if after.get(key) is not None:
            between = f" (95 % interval {number(after['ece_low'])} to {number(after['ece_high'])})"
            interval = between if key == "ece" else ""
            found.append(EvalResult(
                **data, dataset_config="all", metric_type="brier_score" if key == "brier" else key,
                metric_value=round(after[key], 4), metric_name=f"{label}{interval}, n = {after['n']}",
            ))  # fmt: skip
    return found


def eval_result_entries(record: Mapping[str, Any]) -> list[EvalResultEntry]:
    """An entry per held-out source that is a data set of the hub.

    The hub shows an entry where that data set is registered as a benchmark with this task, and skips it elsewhere. The task
    is not one of the benchmark's own, so that pair accuracy cannot be taken for its score.
    """
    from huggingface_hub import EvalResultEntry

    found = []
    for row in record.get("accuracy_by_source") or []:
        hub = _source_card(row["kind"]).get("hub")
        if hub:
            notes = (
                f"share of {row['n']} held-out preference pairs made from this data set whose fair side has the higher "
                f"reward (95 % interval {row['low']:.3f} to {row['high']:.3f}); not the benchmark's own score"
            )
            found.append(EvalResultEntry(
                dataset_id=hub, task_id=TASK, value=round(row["accuracy"], 4), notes=notes,
                date=record.get("finished") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            ))  # fmt: skip
    return found


def _for_template(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    train, base = record["data"]["train"], record.get("base") or {}
    coverage = (record.get("coverage") or {}).get("train") or {}
    calibration, report = record.get("calibration"), record.get("calibration_report")
    classifier = record.get("classifier") or {"folder": None, "reason": "the folder was made before there was one"}
    return {
        "name": name,
        "train": train,
        "base": base.get("path") if HUB_ID.fullmatch(str(base.get("path"))) else Path(str(base.get("path"))).name,
        "base_hash": str(base.get("hash") or "")[:16],
        "adapt": {"lora": "with a LoRA adapter (merged)"}.get(str(record.get("adapt")), "all weights"),
        "sources": [_source_row(source, row) for source, row in train["sources"].items()],
        "languages": _counted(coverage.get("languages")),
        "axes": _counted(coverage.get("axes")),
        "accuracy": _accuracy_rows(record),
        "calibration": None if not calibration else {key: number(value) for key, value in calibration.items()},
        "report": _report(report),
        "reliability": [] if not report else [_bin_row(row) for row in report["after"]["reliability"]],
        "uncalibrated": (
            "there were no held-out pairs" if record.get("accuracy") is None
            else "on the held-out pairs a higher reward does not mean a fairer answer"
        ),
        "limits": _limits(record),
        "classifier": classifier.get("folder"),
        "no_classifier": classifier.get("reason"),
        "command_block": _command(record),
        "versions": ", ".join(f"{key} {value}" for key, value in (record.get("versions") or runs.versions()).items()),
        "seed": record.get("seed"),
    }


def _source_card(name: str) -> dict[str, Any]:
    from teachfair.data import SOURCES

    return dict(getattr(SOURCES.get(name), "CARD", {}))


def _source_row(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    card = _source_card(name)
    return {**row, "name": name, "paper": card.get("paper"), "problems": "; ".join(card.get("problems") or [])}


def _licence(text: str) -> str:
    """Without the remark in parentheses that some cards have."""
    return one_line(text).split(" (")[0]


def _counted(counts: Mapping[str, int] | None) -> str:
    return ", ".join(f"{key or 'not stated'} ({n})" for key, n in (counts or {}).items())


def _accuracy_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in record.get("accuracy") or []:
        ruler = _best_ruler(record, row["kind"])
        rows.append({
            "kind": row["kind"], "n": row["n"], "accuracy": _with_interval(row),
            "ruler": f"{ruler['ruler']} {_with_interval(ruler)}" if ruler else "none measured",
        })  # fmt: skip
    return rows


def _best_ruler(record: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    rows = [row for row in record.get("shortcuts") or [] if row.get("kind", "all") == kind]
    rows = [row for row in rows if row.get("accuracy") is not None]
    return max(rows, key=lambda row: float(row["accuracy"]), default=None)


def _with_interval(row: Mapping[str, Any]) -> str:
    return f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _report(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if report is None:
        return None
    shown: dict[str, Any] = {key: str(report[key]) for key in ("folds", "folds_without_fit")}
    for when in ("before", "after"):
        one = report[when]
        shown[when] = {key: number(one[key]) for key in ("brier", "log_loss", "rms_debiased", "ece_of_calibrated")}
        interval = "" if one["ece_low"] is None else f" [{number(one['ece_low'])}, {number(one['ece_high'])}]"
        shown[when] |= {"ece": number(one["ece"]) + interval, "bins": one["bins"], "reason": one["reason"]}
    return shown


def _bin_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "range": f"{row['low']:.3f} to {row['high']:.3f}", "n": row["n"], "mean": number(row["mean_probability"]),
        "observed": f"{row['observed']:.3f} [{row['observed_low']:.3f}, {row['observed_high']:.3f}]",
    }  # fmt: skip


def _limits(record: Mapping[str, Any]) -> list[str]:
    from teachfair.data.axes import AXES

    lines = []
    rows = record.get("accuracy") or []
    chance = [f"{row['kind']} ({row['accuracy']:.3f}, n {row['n']})" for row in rows if row["low"] <= 0.5]
    if chance:
        lines.append(f"No better than chance, as far as the held-out pairs can tell, on: {', '.join(chance)}.")
    for row in rows:
        ruler = _best_ruler(record, row["kind"])
        if ruler and row["accuracy"] <= ruler["accuracy"]:
            said = f"{ruler['ruler']} {_with_interval(ruler)}"
            lines.append(f"On {row['kind']} a ruler that does not read the question does as well: {said}.")
    coverage = record.get("coverage") or {}
    seen = set((coverage.get("train") or {}).get("axes") or {}) - {""}
    if seen:
        never = [axis for axis in AXES if axis not in seen and axis != "none"]
        lines.append(f"Axes that it was never trained on: {', '.join(never) or 'none of the known ones'}.")
    unmeasured = sorted(seen - set((coverage.get("eval") or {}).get("axes") or {}))
    if unmeasured and rows:
        lines.append(f"Trained on, but not held out, so not measured: {', '.join(map(str, unmeasured))}.")
    tokens = (record.get("data") or {}).get("max_tokens")
    if tokens:
        lines.append(
            f"It reads {tokens} tokens. teachfair scores a longer text in overlapping windows, of which the least fair one "
            "decides; a stock pipeline does not: it stops with an error, reads beyond what was trained, or cuts the text."
        )
    lines += [
        "What it learned is what its sources call fair, with their errors; what passes for fair changes by place and time.",
        "A policy that is optimised against it will find texts that it overrates: watch for that, and judge by other means.",
        "The licence of the base model applies beside those of the data.",
    ]
    return lines


def _best_rulers(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in record.get("shortcuts") or []:
        kind = row.get("kind", "all")
        if row.get("accuracy") is not None and (kind not in found or row["accuracy"] > found[kind]["accuracy"]):
            found[kind] = row
    return list(found.values())


def _command(record: Mapping[str, Any]) -> Any:
    """The command as a block of code, without what looks like a secret."""
    from markupsafe import Markup

    words = [str(word) for word in record.get("command") or [Path(sys.argv[0]).name, *sys.argv[1:]]]
    return Markup(f"<pre><code>{html.escape(one_line(' '.join(runs.without_secrets(words))))}</code></pre>")
