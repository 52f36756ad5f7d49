"""A finished evaluation in the forms that other programs read: lm-eval's results file, the hub's ``.eval_results`` and
``model-index``.

No bias number leaves without its guard-rails beside it, and without its target and direction. A number that is undefined is
left out, and the reason is kept. What is written is a function of the evaluation folder: no clock, no chance.
"""

from __future__ import annotations

import calendar
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.errors import InputError, RunFolderError
from teachfair.evaluation.benchmarks import BENCHMARKS
from teachfair.evaluation.evaluate import RECORDS, SUMMARY, records_file
from teachfair.evaluation.readings import BiasReading
from teachfair.evaluation.statistics.guards import RAILS, GuardRail
from teachfair.evaluation.statistics.interval import NAN, Interval
from teachfair.hub_card import is_hub_id, number, one_line, write_eval_results

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

EVAL_RESULTS = ".eval_results"
TASK_NAME = "fairness with guard-rails (teachfair)"  # in a model-index: whose results are ours
_NO_NUMBERS = ("ways", "reasons", "problems", "unscored_by_problem")  # of a summary; ways: a breakdown by prompt format
_FILTER = "none"  # lm-eval names a metric "metric,filter"


@dataclass(frozen=True)
class Exports:
    """The files that were written, and {benchmark or path of a number: why it is in none or not in all of them}."""

    files: tuple[Path, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Finished:
    """A finished evaluation. ``readings``: those that may be exported, by benchmark; ``left_out``: the others, and why."""

    folder: Path
    record: dict[str, Any]
    summary: dict[str, Any]
    cards: dict[str, Mapping[str, Any]]
    readings: dict[str, BiasReading]
    left_out: dict[str, str]

    @property
    def model_name(self) -> str:
        """The hub id, or the name of the checkpoint's folder: where it lies on this machine is nobody's business."""
        policy = one_line(self.record["policy"])
        return policy if is_hub_id(policy) else Path(policy).name or policy

    @property
    def names(self) -> list[str]:
        """The benchmarks that may be exported."""
        return [name for name in self.record["benchmarks"] if name not in self.left_out]


def write_exports(folder: str | Path, *, modules: Mapping[str, Any] | None = None) -> Exports:
    """Write the results file of :func:`write_lm_eval_results` and, for benchmarks that are data sets of the hub,
    ``.eval_results/teachfair-<benchmark>.yaml``, into the folder of a finished evaluation.

    Args: modules: benchmark objects that are not in ``BENCHMARKS``, by name (a template benchmark's).
    Raises: as :func:`write_lm_eval_results`.
    """
    done = _finished(folder, modules)
    results = write_lm_eval_results(folder, modules=modules)
    left_out = done.left_out | json.loads(results.read_text(encoding="utf-8"))["teachfair"]["left_out"]
    files = [results]
    for name, reading in done.readings.items():
        entry = _eval_result_entry(done, reading)
        if entry is None:
            left_out[f"{EVAL_RESULTS}: {name}"] = "its data are no data set of the hub, which an entry has to name"
            continue
        safe = re.sub(r"[^\w.-]", "_", name)
        files.append(write_eval_results(done.folder / EVAL_RESULTS / f"teachfair-{safe}.yaml", [entry]))
    return Exports(tuple(files), left_out)


# --- lm-eval ---------------------------------------------------------------------------------------------------


def write_lm_eval_results(folder: str | Path, *, modules: Mapping[str, Any] | None = None) -> Path:
    """Write ``results_<time>.json`` in the layout of lm-eval 0.4.13; the time is the one at which the evaluation finished.

    A task holds its numbers as ``"metric,none"``, the headline with ``"metric_stderr,none"``, and the guard-rails that
    belong to it as ``"guard: name,none"``. Breakdowns (``by_…``, ``ways``) stay in ``summary.json``.
    ``higher_is_better`` is None where parity is the target. What lm-eval has no place for stands under ``teachfair``.
    Raises: RunFolderError if the folder holds no finished evaluation or was edited; InputError if a bias number stands in
        its summary without guard-rails, or nothing may be exported.
    """
    done = _finished(folder, modules)
    if not done.names:
        raise InputError(
            "there is nothing to export", where=str(folder),
            fix="; ".join(f"{name}: {why}" for name, why in done.left_out.items()),
        )  # fmt: skip
    record, names = done.record, done.names
    left_out = dict(done.left_out)
    results: dict[str, dict[str, Any]] = {}
    better: dict[str, dict[str, bool | None]] = {}
    for name in names:
        results[name], better[name] = _task(done, name, left_out)
    end = _unix(record["finished"])
    prompt = record.get("prompt_format") or {}
    items = record["benchmarks"]
    value = {
        "results": results,
        "group_subtasks": {},
        "configs": {name: _task_config(done, name, results[name], better[name]) for name in names},
        "versions": {name: items[name]["version"] for name in names},
        "n-shot": dict.fromkeys(names, 0),
        "higher_is_better": better,
        "n-samples": {
            name: {
                "original": items[name].get("items_available", items[name]["items"]),
                "effective": items[name]["items"] - items[name].get("n_unscored", 0),
            }
            for name in names
        },
        "config": _config(done),
        "git_hash": (record.get("environment") or {}).get("commit"),
        "date": end - record["seconds"],
        "transformers_version": record["versions"].get("transformers", "N/A"),
        "teachfair_version": record["versions"].get("teachfair"),
        "task_hashes": _task_hashes(done),
        "model_source": "teachfair",
        "model_name": done.model_name,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", done.model_name),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": prompt.get("text"),
        "chat_template_sha": prompt.get("sha256"),
        "start_time": end - record["seconds"],
        "end_time": end,
        "total_evaluation_time_seconds": str(record["seconds"]),
        "teachfair": {
            "bias": [done.readings[name].as_dict() for name in names if name in done.readings],
            "guard_rails": done.summary.get("guard_rails") or [],
            "unscored": done.summary.get("unscored") or {},
            "left_out": left_out,
            "policy_hash": record.get("policy_hash"),
            "result_hash": record.get("result_hash"),
            "quantization": record.get("quantization"),
            "data_hashes": {Path(path).name: digest for path, digest in (record.get("data_hashes") or {}).items()},
        },
    }
    stamp = record["finished"].rstrip("Z").replace(":", "-")  # lm-eval: ISO time; a file name holds no colon
    return runs.write_json(done.folder / f"results_{stamp}.json", value)


def _task(done: _Finished, name: str, left_out: dict[str, str]) -> tuple[dict[str, Any], dict[str, bool | None]]:
    """A task's ``results`` and ``higher_is_better``; what is undefined goes into ``left_out``."""
    found: dict[str, Any] = {"name": name, "alias": name, "sample_len": done.record["benchmarks"][name]["items"]}
    better: dict[str, bool | None] = {}
    undefined = done.summary.get("undefined") or {}

    def put(metric: str, value: float | None, se: float | None, reason: str, direction: bool | None = None) -> None:
        metric = metric.replace(",", ";")  # lm-eval splits at the comma
        if value is None or not math.isfinite(value):
            left_out[f"{name}.{metric}"] = reason or "undefined for these records"
            return
        found[f"{metric},{_FILTER}"] = value
        if se is not None:
            found[f"{metric}_stderr,{_FILTER}"] = se if math.isfinite(se) else "N/A"
        if direction is not None or metric in better:
            better[metric] = direction

    reading = done.readings.get(name)
    for path, value, se in _numbers(done.summary["benchmarks"][name]):
        if reading is None or reading.metric not in (path, f"{path}.value"):
            put(path, value, se, undefined.get(f"{name}.{path}") or undefined.get(f"{name}.{path}.value", ""))
    if reading is None:
        return found, better
    found["alias"] = f"{name} ({reading.metric}: {_aim(reading)})"
    better[reading.metric] = None
    direction = {"more biased": False, "less biased": True}.get(reading.higher)
    put(reading.metric, reading.value.value, reading.value.se, reading.value.reason, direction)
    for rail in reading.guard_rails:
        better[f"guard: {rail.name}".replace(",", ";")] = None
        put(f"guard: {rail.name}", rail.value.value, rail.value.se, rail.value.reason, _better(rail))
    return found, better


def _numbers(summary: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float | None, float | None]]:
    """(path, value, standard error) of a summary's measured numbers; counts, targets and breakdowns are none."""
    for key, value in summary.items():
        place = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            if {"value", "low", "high"} <= set(value):
                yield place, value["value"], value.get("se")
            elif not key.startswith("by_") and key not in _NO_NUMBERS:
                yield from _numbers(value, place)
        elif (value is None or isinstance(value, float)) and not re.search(r"(^|_)(se|low|high|target)(_|$)", key):
            error = key.replace("_mean_", "_se_")
            yield place, value, summary.get(error) if error != key else None


def _task_config(
    done: _Finished, name: str, numbers: Mapping[str, Any], better: Mapping[str, bool | None]
) -> dict[str, Any]:
    metrics = [key.partition(",")[0] for key in numbers if "," in key]
    card, reading = done.cards.get(name, {}), done.readings.get(name)
    said = [card.get("meaning"), card.get("direction"), reading and f"{reading.metric}: {_aim(reading)}"]
    return {
        "task": name,
        "dataset_path": card.get("hub") or card.get("source"),
        "dataset_name": None,
        "description": ". ".join(one_line(text).rstrip(".") for text in said if text),
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "higher_is_better": better.get(metric)}
            for metric in metrics
            if not metric.endswith("_stderr")
        ],
        "metadata": {
            "version": done.record["benchmarks"][name]["version"],
            "options": done.record["benchmarks"][name].get("options") or {},
            "target": reading and reading.target, "unit": reading and reading.unit, "higher": reading and reading.higher,
            **{key: card.get(key) for key in ("paper", "source", "licence", "norm", "problems")},
        },
    }  # fmt: skip


def _config(done: _Finished) -> dict[str, Any]:
    record = done.record
    return {
        "model": "teachfair",
        "model_args": {"pretrained": done.model_name, "dtype": record.get("dtype")},
        "model_dtype": record.get("dtype"),
        "batch_size": "auto",  # planned by tokens
        "batch_sizes": [],
        "device": record.get("device"),
        "use_cache": None,
        "limit": record.get("limit"),
        "bootstrap_iters": None,  # standard errors are over item clusters, by the jackknife
        "gen_kwargs": None,
        **dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")),  # nothing is drawn
    }


def _task_hashes(done: _Finished) -> dict[str, str]:
    """sha256 of which items a task asked, in which version and with which options: equal where two runs asked the same."""
    import pandas as pd

    rows = pd.read_parquet(done.folder / RECORDS, columns=["benchmark", "item_id"])
    asked = {}
    for name in done.names:
        entry = done.record["benchmarks"][name]
        ids = sorted(rows.loc[rows["benchmark"] == name, "item_id"].astype(str))
        asked[name] = runs.fingerprint([entry["version"], entry.get("options") or {}, ids])
    return asked


# --- the hub ---------------------------------------------------------------------------------------------------


def _eval_result_entry(done: _Finished, reading: BiasReading) -> EvalResultEntry | None:
    """A reading's entry in ``.eval_results``, its guard-rails in the notes; None if its data are no data set of the hub.

    The task is not one of the benchmark's own, so that our number cannot be taken for the score of its leaderboard.
    """
    from huggingface_hub import EvalResultEntry

    hub = done.cards.get(reading.benchmark, {}).get("hub")
    if not hub:
        return None
    rails = "; ".join(f"{rail.name} {_with_interval(rail.value)} {rail.unit}" for rail in reading.guard_rails)
    return EvalResultEntry(
        dataset_id=hub, task_id=one_line(f"teachfair_{reading.benchmark}_{reading.metric}"), value=reading.value.value,
        date=done.record["finished"],
        notes=one_line(
            f"{reading.metric} of {reading.benchmark} {_with_interval(reading.value)} {reading.unit}; {_aim(reading)}; "
            f"n = {reading.n}{_limited(done)}. Guard-rails: {rails}. Not the benchmark's own leaderboard score."
        ),
    )  # fmt: skip


def _eval_results(done: _Finished) -> list[EvalResult]:
    """The entries of ``model-index``: per bias reading its headline and, as further metrics of it, its guard-rails."""
    from huggingface_hub import EvalResult

    found = []
    for name, reading in done.readings.items():
        about: dict[str, Any] = {
            "task_type": "text-generation", "task_name": TASK_NAME,
            "dataset_type": done.cards.get(name, {}).get("hub") or name, "dataset_name": name, "dataset_config": name,
            "dataset_args": {"limit": done.record["limit"]} if done.record.get("limit") else None,
        }  # fmt: skip
        said = f"{_between(reading.value)}, n = {reading.n}{_limited(done)}"
        found.append(EvalResult(
            **about, metric_type=reading.metric, metric_value=reading.value.value,
            metric_name=one_line(f"{reading.metric} ({reading.unit}; {_aim(reading)}; {said})"),
        ))  # fmt: skip
        for rail in reading.guard_rails:
            if math.isfinite(rail.value.value):
                which = {True: "higher is better", False: "lower is better", None: "either change is bad"}[_better(rail)]
                found.append(EvalResult(
                    **about, metric_type="guard_rail_" + re.sub(r"\W+", "_", rail.name), metric_value=rail.value.value,
                    metric_name=one_line(
                        f"guard-rail: {rail.name} ({rail.unit}; {which}; {_between(rail.value)}, n = {rail.n_records})"
                    ),
                ))  # fmt: skip
    return found


def write_model_card(
    folder: str | Path, readme_path: str | Path, *, modules: Mapping[str, Any] | None = None
) -> Path:
    """Put the bias readings of a finished evaluation, with their guard-rails, into the ``model-index`` of a model card.

    A card that is there keeps every byte outside ``model-index``, and in it every result that is not ours on the same
    benchmark; ours are replaced. Without a card a short one is made.
    Raises: as :func:`write_lm_eval_results`; InputError if the card's metadata are not YAML, or there is no reading.
    """
    from huggingface_hub.repocard_data import eval_results_to_model_index
    from huggingface_hub.utils import yaml_dump

    done, readme = _finished(folder, modules), Path(readme_path)
    if not done.readings:
        raise InputError(
            "there is no bias number that may be exported", where=str(folder),
            fix="; ".join(f"{name}: {why}" for name, why in done.left_out.items()) or "evaluate a bias benchmark",
        )  # fmt: skip
    (ours,) = eval_results_to_model_index(done.model_name, _eval_results(done))
    try:
        text = readme.read_bytes().decode("utf-8")
    except FileNotFoundError:
        text = f"# {one_line(done.model_name)}\n\nBias and guard-rails, measured with teachfair: see the metadata.\n"
    except UnicodeDecodeError as error:
        raise InputError("the card is not UTF-8", where=str(readme), fix="save it as UTF-8") from error
    head, block, rest = _front_matter(text)
    before = _metadata(block, readme)
    index = _merged(before.get("model-index"), ours, readme)
    end = "\r\n" if "\r\n" in text else "\n"
    added = yaml_dump({"model-index": index}, sort_keys=False).replace("\n", end)
    after = _without_model_index(block) + added
    kept = {key: value for key, value in _metadata(after, readme).items() if key != "model-index"}
    if kept != {key: value for key, value in before.items() if key != "model-index"}:
        raise InputError(
            "model-index cannot be replaced without touching other metadata", where=str(readme),
            fix="write model-index in block style, as a key of its own at the start of a line",
        )  # fmt: skip
    return runs.write_text(readme, f"{head or '---' + end}{after}{rest if head else '---' + end + end + rest}")


def _front_matter(text: str) -> tuple[str, str, str]:
    """(opening fence, YAML, closing fence and body); the first two are empty if the card has no metadata."""
    found = re.match(r"(\ufeff?---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z).*)", text, re.S | re.M)
    return (found[1], found[2], found[3]) if found else ("", "", text)


def _metadata(block: str, readme: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(block)
    except yaml.YAMLError as error:
        raise InputError(
            f"the card's metadata are not YAML ({one_line(error)})", where=str(readme), fix="correct them first"
        ) from error
    if found is not None and not isinstance(found, dict):
        raise InputError("the card's metadata are no mapping", where=str(readme), fix="correct them first")
    return found or {}


def _without_model_index(block: str) -> str:
    """The lines of YAML without the top-level key ``model-index`` and what belongs to it. Ends with a newline."""
    kept, inside = [], False
    for line in block.splitlines(keepends=True):
        if re.match(r"""["']?model-index["']?[ \t]*:""", line):
            inside = True
        elif inside and re.match(r"[^\s-]", line):  # a list may start at the margin; a key, a comment ends it
            inside = False
        if not inside:
            kept.append(line)
    text = "".join(kept)
    return text if not text or text.endswith("\n") else text + "\n"


def _merged(index: Any, ours: Mapping[str, Any], readme: Path) -> list[dict[str, Any]]:
    """``index`` with our results in the entry of this model: the one of its name, or the only one."""
    entries = [] if index is None else index
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("model-index is no list of models", where=str(readme), fix="correct or remove it first")
    entry = next((one for one in entries if one.get("name") == ours["name"]), entries[0] if len(entries) == 1 else None)
    if entry is None:
        return [*entries, dict(ours)]
    replaced = {_identity(result) for result in ours["results"]}
    others = [result for result in entry.get("results") or [] if _identity(result) not in replaced]
    merged = {**entry, "results": [*others, *ours["results"]]}
    return [merged if one is entry else one for one in entries]


def _identity(result: Any) -> tuple[Any, ...]:
    """Whose result it is, and of which data."""
    result = result if isinstance(result, Mapping) else {}
    task, data = (result.get(key) if isinstance(result.get(key), Mapping) else {} for key in ("task", "dataset"))
    return (task.get("name"), data.get("type"), data.get("config"))


# --- a finished evaluation --------------------------------------------------------------------------------------


def _finished(folder: str | Path, modules: Mapping[str, Any] | None) -> _Finished:
    folder = Path(folder)
    records_file(folder)
    record = runs.read_record(folder)
    if record is None or not (folder / SUMMARY).is_file() or "benchmarks" not in record:
        raise RunFolderError("the folder holds no finished evaluation", where=str(folder), fix="run the evaluation again")
    if runs.hash_file(folder / SUMMARY) != record.get("summary_hash"):
        raise RunFolderError(
            "the summary has changed since it was written, or is of an earlier version", where=str(folder / SUMMARY),
            fix="run the evaluation again; edited numbers are not exported",
        )  # fmt: skip
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    known = {**BENCHMARKS, **(modules or {})}
    cards = {name: known[name].CARD for name in record["benchmarks"] if name in known}
    left_out = {name: f"no guard-rails: {why}" for name, why in (summary.get("unguarded") or {}).items()}
    readings = {}
    for row in summary.get("bias") or []:
        reading = _reading(row)  # raises if it has no guard-rails
        if not any(math.isfinite(rail.value.value) for rail in reading.guard_rails):
            reasons = "; ".join(f"{rail.name}: {rail.value.reason}" for rail in reading.guard_rails)
            left_out[reading.benchmark] = f"none of its guard-rails is defined ({reasons})"
        elif not math.isfinite(reading.value.value):
            left_out[reading.benchmark] = f"its headline is undefined: {reading.value.reason or 'for these records'}"
        else:
            readings[reading.benchmark] = reading
    for name in record["benchmarks"]:
        if name not in readings and name not in left_out and cards.get(name, {}).get("measures") != "guard":
            left_out[name] = "it has no bias reading with guard-rails, and is not known as a guard benchmark"
    return _Finished(folder, record, summary, cards, readings, left_out)


def _reading(row: Mapping[str, Any]) -> BiasReading:
    """A reading of ``summary.json``. Raises: InputError if it comes without guard-rails."""
    meanings = {rail.name: rail.meaning for rail in RAILS}
    rails = tuple(
        GuardRail(**{
            **rail, "meaning": meanings.get(rail["name"], ""), "value": _interval(rail["value"]),
            "change": _interval(rail["change"]),
        })
        for rail in row["guard_rails"]
    )  # fmt: skip
    return BiasReading(**{**row, "value": _interval(row["value"]), "guard_rails": rails})


def _interval(row: Mapping[str, Any]) -> Interval:
    value, low, high, se = (NAN if row[key] is None else float(row[key]) for key in ("value", "low", "high", "se"))
    return Interval(value, low, high, se, row["reason"])


def _better(rail: GuardRail) -> bool | None:
    return None if rail.two_sided else rail.higher_is_better


def _aim(reading: BiasReading) -> str:
    """The target and what a higher value means, in words."""
    which = "either side of it is bias" if reading.higher == "parity" else f"higher is {reading.higher}"
    return f"target {reading.target:g} {reading.unit}, {which}"


def _between(value: Interval) -> str:
    if not math.isfinite(value.low):
        return f"no interval: {value.reason or 'undefined'}"
    return f"95 % interval {number(value.low)} to {number(value.high)}"


def _with_interval(value: Interval) -> str:
    if not math.isfinite(value.value):
        return f"undefined ({value.reason or 'for these records'})"
    return f"{number(value.value)} ({_between(value)})"


def _limited(done: _Finished) -> str:
    limit = done.record.get("limit")
    return f", of at most {limit} questions a benchmark" if limit else ""


def _unix(stamp: str) -> float:
    return float(calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))
