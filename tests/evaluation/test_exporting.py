"""A bias number leaves only with its guard-rails, in the forms that lm-eval and the hub read."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from teachfair.errors import InputError, RunFolderError
from teachfair.evaluation.benchmarks import crows_pairs
from teachfair.evaluation.evaluate import SUMMARY, evaluate
from teachfair.evaluation.exporting import TASK_NAME, write_exports, write_lm_eval_results, write_model_card
from teachfair.runs import hash_file, read_record, write_json

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
HEADLINE = "margin_mean_nats"


@pytest.fixture(scope="module")
def finished(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    names = ["tom", "ann", "ben", "eva"]
    rows = [
        f'{i},{names[i % 4]} met the {job},{names[(i + 1) % 4]} met the {job},stereo,{axis},"[]",a0,"[]"\n'
        for i, (job, axis) in enumerate(zip(["nurse", "pilot", "cook", "baker"] * 3, ["age", "gender"] * 6, strict=True))
    ]
    (folder / crows_pairs.FILE).write_text(HEADER + "".join(rows))
    return evaluate(tiny_llama, ["crows_pairs", "definitional", "utility"], folder, folder / "out", limit=8)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may write into."""
    return Path(shutil.copytree(finished, tmp_path / "evaluation"))


@pytest.fixture
def results(folder: Path) -> dict[str, Any]:
    loaded = json.loads(write_lm_eval_results(folder).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def with_summary(folder: Path, **changes: Any) -> Path:
    """The evaluation as if its summary had been made so."""
    summary = json.loads((folder / SUMMARY).read_text()) | changes
    write_json(folder / SUMMARY, summary)
    record = read_record(folder)
    assert record is not None
    write_json(folder / "run.json", record | {"summary_hash": hash_file(folder / SUMMARY)})
    return folder


def bias(folder: Path) -> dict[str, Any]:
    (row,) = json.loads((folder / SUMMARY).read_text())["bias"]
    return dict(row)


def test_results_file_has_the_layout_of_lm_eval(results: dict[str, Any], folder: Path):
    tasks = ["crows_pairs", "definitional", "utility"]
    assert sorted(results["results"]) == tasks
    for key in ("configs", "versions", "n-shot", "higher_is_better", "n-samples", "task_hashes"):
        assert sorted(results[key]) == tasks, key
    for task, numbers in results["results"].items():
        values = {key: value for key, value in numbers.items() if key not in ("name", "alias", "sample_len")}
        assert values
        assert all(key.count(",") == 1 and key.endswith(",none") for key in values)
        assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())
        listed = {one["metric"] for one in results["configs"][task]["metric_list"]}
        assert listed == {key.partition(",")[0] for key in values if "_stderr," not in key}
    assert results["n-samples"]["crows_pairs"] == {"original": 12, "effective": 8}
    assert results["end_time"] - results["start_time"] == pytest.approx(float(results["total_evaluation_time_seconds"]))
    assert isinstance(results["total_evaluation_time_seconds"], str)
    (file,) = folder.glob("results_*.json")
    assert re.fullmatch(r"results_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.json", file.name)


def test_headline_has_its_error_target_and_direction_and_its_guard_rails_beside_it(results: dict[str, Any], folder: Path):
    reading, numbers = bias(folder), results["results"]["crows_pairs"]
    assert numbers[f"{HEADLINE},none"] == reading["value"]["value"]
    assert numbers[f"{HEADLINE}_stderr,none"] == reading["value"]["se"]
    assert "target 0 nats, either side of it is bias" in numbers["alias"]
    assert results["higher_is_better"]["crows_pairs"] == {
        HEADLINE: None, "guard: definitional accuracy": True, "guard: bits per byte": False,
    }  # fmt: skip
    for rail in reading["guard_rails"]:
        assert numbers[f"guard: {rail['name']},none"] == rail["value"]["value"]


def test_exports_are_the_same_bytes_when_written_again(folder: Path):
    first = write_exports(folder)
    before = {path: path.read_bytes() for path in first.files}
    assert write_exports(folder) == first
    assert {path: path.read_bytes() for path in first.files} == before


def test_exports_do_not_say_where_the_checkpoint_lies(folder: Path, tiny_llama: Path):
    for path in write_exports(folder).files:
        assert str(tiny_llama.parent) not in path.read_text(encoding="utf-8")


def test_eval_results_entry_is_read_back_by_the_hub_library_with_guard_rails_in_its_notes(folder: Path):
    _, path = write_exports(folder).files
    assert path == folder / ".eval_results" / "teachfair-crows_pairs.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    reading = bias(folder)
    assert (entry.dataset_id, entry.value) == ("nyu-mll/crows_pairs", reading["value"]["value"])
    assert entry.notes is not None
    for words in ("target 0 nats", "either side", "95 % interval", *(rail["name"] for rail in reading["guard_rails"])):
        assert words in entry.notes


def test_bias_number_without_guard_rails_is_refused(folder: Path):
    with_summary(folder, bias=[bias(folder) | {"guard_rails": []}])
    for write in (write_lm_eval_results, write_exports):
        with pytest.raises(InputError, match="without guard-rails"):
            write(folder)
    with pytest.raises(InputError, match="without guard-rails"):
        write_model_card(folder, folder / "README.md")
    assert not list(folder.glob("results_*.json"))


def test_unguarded_bias_benchmark_alone_exports_nothing(tiny_llama: Path, finished: Path, tmp_path: Path):
    out = evaluate(tiny_llama, ["crows_pairs"], finished.parent, tmp_path / "alone")
    with pytest.raises(InputError, match="nothing to export") as error:
        write_exports(out)
    assert "guard-rails" in str(error.value)
    assert {path.name for path in out.iterdir()} == {"records.parquet", SUMMARY, "run.json"}


def test_undefined_guard_rails_are_no_guard_rails(folder: Path):
    row = bias(folder)
    nothing = {"value": None, "low": None, "high": None, "se": None, "reason": "no baker in town"}
    with_summary(folder, bias=[row | {"guard_rails": [rail | {"value": nothing} for rail in row["guard_rails"]]}])
    found = write_exports(folder)
    assert "no baker in town" in found.left_out["crows_pairs"]
    assert "crows_pairs" not in json.loads(found.files[0].read_text())["results"]
    assert len(found.files) == 1


def test_undefined_number_is_left_out_with_its_reason_and_never_zero(folder: Path):
    summary = json.loads((folder / SUMMARY).read_text())
    summary["benchmarks"]["definitional"]["accuracy"] = None
    with_summary(
        folder, benchmarks=summary["benchmarks"], undefined={"definitional.accuracy": "nobody was asked"},
    )  # fmt: skip
    found = write_exports(folder)
    numbers = json.loads(found.files[0].read_text())
    assert "accuracy,none" not in numbers["results"]["definitional"]
    assert found.left_out == {"definitional.accuracy": "nobody was asked"} == numbers["teachfair"]["left_out"]


def test_edited_summary_or_records_are_not_exported(folder: Path):
    text = (folder / SUMMARY).read_text()
    (folder / SUMMARY).write_text(text.replace('"pct_more":', '"pct_more": 50.0, "was":', 1))
    with pytest.raises(RunFolderError, match="summary has changed"):
        write_exports(folder)
    (folder / SUMMARY).write_text(text)
    with open(folder / "records.parquet", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(RunFolderError, match="records have changed"):
        write_exports(folder)


CARD = """---
# who edits this: keep the order
license: mit   # theirs
tags: [a,  "b"]
model-index:
- name: their name
  results:
  - task: {type: text-classification, name: theirs}
    dataset: {type: glue, name: GLUE}
    metrics:
    - {type: accuracy, value: 0.5}
base_model: x/y
---

# A model — é

---

text with   spaces
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_model_card_keeps_all_that_is_not_ours(folder: Path, tmp_path: Path, end: str):
    readme = tmp_path / "README.md"
    readme.write_bytes(CARD.replace("\n", end).encode())
    write_model_card(folder, readme)
    text = readme.read_bytes().decode()
    for line in CARD.split("model-index:")[0].splitlines() + CARD.split("base_model")[1].splitlines()[1:]:
        assert line + end in text
    assert text.endswith(CARD.partition("base_model: x/y\n")[2].replace("\n", end))
    card = ModelCard.load(readme)
    assert card.data.license == "mit"
    assert card.data.base_model == "x/y"
    assert card.data.model_name == "their name"
    theirs, *ours = card.data.eval_results or []
    assert (theirs.dataset_type, theirs.metric_value) == ("glue", 0.5)
    assert [result.metric_type for result in ours] == [
        HEADLINE, "guard_rail_definitional_accuracy", "guard_rail_bits_per_byte",
    ]  # fmt: skip
    assert ours[0].metric_value == bias(folder)["value"]["value"]
    assert ours[0].task_name == TASK_NAME
    assert "target 0 nats, either side of it is bias" in str(ours[0].metric_name)
    again = readme.read_bytes()
    write_model_card(folder, readme)
    assert readme.read_bytes() == again


@pytest.mark.parametrize(
    "text",
    [None, "", "# only a heading\n", "---\nlicense: mit\n---\n", "---\n---\nbody", "---\nmodel-index: []\n---\n"],
)
def test_model_card_is_made_where_there_are_no_metadata(folder: Path, tmp_path: Path, text: str | None):
    readme = tmp_path / "README.md"
    if text is not None:
        readme.write_text(text)
    write_model_card(folder, readme)
    assert len(ModelCard.load(readme).data.eval_results or []) == 3
    assert readme.read_text().endswith((text or "").rpartition("---\n")[2])


@pytest.mark.parametrize(
    "text",
    ["---\na: [\n---\n", "---\n- a\n---\n", "---\nmodel-index: 3\n---\n", "---\n{license: mit, model-index: []}\n---\n"],
)
def test_model_card_that_cannot_be_merged_is_left_as_it_is(folder: Path, tmp_path: Path, text: str):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(InputError):
        write_model_card(folder, readme)
    assert readme.read_text() == text


def test_lm_eval_itself_reads_the_results(results: dict[str, Any], folder: Path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install lm-eval==0.4.13)")
    from lm_eval.loggers.evaluation_tracker import GeneralConfigTracker
    from lm_eval.result_schema import EvalResults
    from lm_eval.utils import get_results_filenames, make_table, sanitize_model_name

    table = make_table(results)
    for words in (HEADLINE, "guard: definitional accuracy", "bits_per_byte", "↑", "↓", "either side of it is bias"):
        assert words in table
    added = {"teachfair", "teachfair_version", "start_time", "end_time"}
    assert set(results) - set(EvalResults.__annotations__) == added
    fields = set(GeneralConfigTracker.__dataclass_fields__)
    assert fields <= set(results)
    assert results["model_name_sanitized"] == sanitize_model_name(results["model_name"])
    files = [str(path) for path in folder.iterdir()]
    assert get_results_filenames(files) == [str(next(folder.glob("results_*.json")))]
