"""A benchmark from a YAML file, without Python: templates, slots and options with roles (docs/template-benchmarks.md).

``load(path)`` gives a benchmark object; ``get("path/to/mine.yaml")`` and ``--benchmarks path/to/mine.yaml`` call it. A key
that is not known is an error that names the file, the field and the nearest name: a typo never measures something else.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from teachfair.errors import ConfigError, DataError, InputError, RunFolderError
from teachfair.runs import fingerprint, hash_file, whole_folder

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

MAX_ITEMS = 200_000  # a product of slots grows fast; more is a mistake before it is a benchmark
SCORING = "1"  # raised when the same file gives other numbers: a study then measures again
KEPT = "benchmark.yaml"  # what a kept copy is called
_FIELD = re.compile(r"\{([^{}]*)\}")
_Text = Annotated[str, Field(min_length=1)]
_UNKNOWN_ROLES = ("fair", "unknown")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Template(_Strict):
    """One sentence frame, and so one cluster: ``id`` and ``text``, with slots in braces."""

    id: _Text
    text: _Text


class Option(_Strict):
    """A continuation or answer, with slots in braces, and its role."""

    role: Literal["stereotype", "anti", "fair", "unknown", "evidence", "right", "wrong", "yes", "no"]
    text: str


class TemplateSpec(_Strict):
    """The YAML file. See docs/template-benchmarks.md, which describes each field."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]+$")]
    version: str = "1"
    meaning: _Text
    citation: _Text
    licence: _Text
    norm: _Text
    lang: _Text
    problems: Annotated[list[str], Field(min_length=1)]
    direction: _Text
    target: _Text
    axis: str = "none"
    condition: Literal["parity", "ambiguous", "disambiguated", "definitional", "decision", "neutral"] = "parity"
    measures: Literal["bias", "guard", "both"] = "bias"
    chat: bool = False
    score: Literal["first", "whole"] = "first"
    margin: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    correct: str | None = None
    slots: dict[str, list[str | dict[str, str]] | dict[str, list[str]]] = Field(default_factory=dict)
    items: str | None = None
    templates: Annotated[list[Template], Field(min_length=1)]
    options: Annotated[list[Option], Field(min_length=2)]
    formats: Annotated[dict[str, str], Field(min_length=1)] = Field(default_factory=lambda: {"plain": "{text}"})

    @model_validator(mode="after")
    def _consistent(self) -> TemplateSpec:
        roles = [option.role for option in self.options]
        if len(set(roles)) < len(roles):
            raise ValueError("options: two options have the same role")
        ids = [template.id for template in self.templates]
        if len(set(ids)) < len(ids):
            raise ValueError("templates: two templates have the same id")
        named = [("margin", role) for role in self.margin or ()] + ([("correct", self.correct)] if self.correct else [])
        for name, role in named:
            if role not in roles:
                raise ValueError(f"{name}: no option has the role {role!r}; there are {', '.join(roles)}")
        for name, form in self.formats.items():
            if _FIELD.findall(form) != ["text"]:
                raise ValueError(f"formats.{name}: {form!r} must hold {{text}} once, and no slot")
        for name, values in self.slots.items():
            if not re.fullmatch(r"\w+", name) or name == "text":
                raise ValueError(f"slots.{name}: a slot's name is one word, and not 'text'")
            if not values:
                raise ValueError(f"slots.{name}: no values")
            if isinstance(values, dict) and len({len(of) for of in values.values()}) > 1:
                raise ValueError(f"slots.{name}: every group needs as many values as the others (twins by place)")
            if isinstance(values, list) and len({str(sorted(v)) if isinstance(v, dict) else "" for v in values}) > 1:
                raise ValueError(f"slots.{name}: every value needs the same fields")
        if sum(isinstance(values, dict) for values in self.slots.values()) > 1:
            raise ValueError("slots: only one slot may have groups")
        if not self.slots and self.items is None:
            raise ValueError("slots: give slots, or an items file")
        return self


def names_file(benchmark: str | Path) -> bool:
    """Whether a word that stands for a benchmark is the path of a template's YAML rather than a name."""
    return Path(benchmark).suffix.lower() in (".yaml", ".yml")


def load(path: str | Path) -> TemplateBenchmark:
    """The benchmark of a YAML file.

    Raises: ConfigError naming file, line and field, and the nearest name for an unknown key.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError("the file cannot be read", where=str(path), fix="give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"not YAML: {error}", where=place, fix="correct the line") from error
    if not isinstance(raw, dict):
        raise ConfigError("a benchmark is a mapping of fields", where=str(path), fix="see docs/template-benchmarks.md")
    try:
        spec = TemplateSpec.model_validate(raw, strict=True)
    except ValidationError as error:
        raise _config_error(path, node, error) from error
    benchmark = TemplateBenchmark(spec, path)
    benchmark.check_fields()
    return benchmark


@dataclass(frozen=True)
class TemplateBenchmark:
    """A YAML file as a benchmark: what a module of this folder has, by the same names."""

    spec: TemplateSpec
    path: Path

    @property
    def CARD(self) -> dict[str, Any]:
        spec = self.spec
        margin = self._margin_roles()
        card: dict[str, Any] = {
            "name": spec.name, "version": spec.version, "meaning": spec.meaning, "paper": spec.citation,
            "licence": spec.licence, "language": spec.lang, "lang": [spec.lang], "norm": spec.norm,
            "direction": spec.direction, "target": spec.target, "problems": list(spec.problems), "source": str(self.path),
            "measures": spec.measures, "needs": [spec.items] if spec.items else "nothing",
            "outcome_condition": spec.condition if margin is not None and spec.measures != "guard" else None,
        }  # fmt: skip
        if spec.condition == "parity":
            card["parity"] = True
        if spec.measures != "guard" and margin is not None:
            card["headline"] = {
                "key": "margin_mean_nats", "target": 0.0, "unit": "nats",
                "higher": "parity" if spec.condition == "parity" else "more biased",
            }  # fmt: skip
        else:
            card["headline"] = None
        if spec.measures != "bias":
            card["guards"] = [spec.condition]
        return card

    def items(self, data_dir: Path | None = None, *, limit_per_template: int | None = None) -> list[dict[str, Any]]:
        """Templates × slots × rows of the items file × formats; ``cluster`` is the template, ``group`` that of a slot with
        groups, ``base_id`` the same for twins of other groups and other formats of one filling.

        Args: data_dir: where the items file is looked for, after the YAML's own folder. limit_per_template: fillings.
        Raises: DataError for a malformed items file; InputError for more than ``MAX_ITEMS``, or options that become equal.
        """
        rows = self._rows(data_dir)
        n = len(rows) * math.prod(_size(values) for values in self.spec.slots.values())
        n *= len(self.spec.templates) * len(self.spec.formats)
        if n > MAX_ITEMS:
            raise InputError(
                f"{n:,} items: templates × slots × rows × formats", where=str(self.path),
                fix=f"at most {MAX_ITEMS:,}: fewer values, or slots whose fields go together (a list of mappings)",
            )  # fmt: skip
        found = []
        for template in self.spec.templates:
            for number, (key, group, fields) in enumerate(itertools.islice(self._fillings(rows), limit_per_template)):
                text = _filled(template.text, fields)
                options = [_filled(option.text, fields) for option in self.spec.options]
                if len(set(options)) < len(options):
                    raise InputError(
                        f"two options become equal: {options}", where=f"{self.path}: template {template.id}, {dict(fields)}",
                        fix="correct the values of the slots",
                    )  # fmt: skip
                for name, form in self.spec.formats.items():
                    suffix = f"-{name}" if len(self.spec.formats) > 1 else ""
                    base = f"{self.spec.name}-{template.id}-{key}"
                    found.append(
                        {
                            "id": f"{self.spec.name}-{template.id}-{number}{suffix}",
                            "base_id": base, "cluster": f"{self.spec.name}-{template.id}", "axis": self.spec.axis,
                            "groups": [group] if group else [], "group": group, "lang": self.spec.lang, "format": name,
                            "condition": self.spec.condition, "prompt": form.replace("{text}", text), "options": options,
                            "roles": [option.role for option in self.spec.options], "fields": fields,
                        }
                    )  # fmt: skip
        return found

    def data_files(self, data_dir: Path | None) -> list[Path]:
        """The YAML, and its items file."""
        return [self.path, *([self._items_file(data_dir)] if self.spec.items else [])]

    def content_hash(self, data_dir: Path | None) -> str:
        """sha256 over the bytes of the YAML and of its items file, wherever they lie."""
        return fingerprint([hash_file(file) for file in self.data_files(data_dir)])

    def keep(self, folder: Path, data_dir: Path | None) -> TemplateBenchmark:
        """The same benchmark from a copy of its files in ``folder``, which is made unless it is there.

        Raises: ConfigError if the items file lies outside the YAML's folder and ``data_dir``: a copy could not find it;
            RunFolderError if ``folder`` holds other content.
        """
        content, copy = self.content_hash(data_dir), folder / KEPT
        if not copy.is_file():
            self.check_keepable()
            with whole_folder(folder) as aside:
                shutil.copyfile(self.path, aside / KEPT)
                if self.spec.items:
                    (aside / self.spec.items).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self._items_file(data_dir), aside / self.spec.items)
        kept = load(copy)
        if kept.content_hash(None) != content:
            raise RunFolderError(
                "the copy that was kept of a template has been edited", where=str(copy),
                fix=f"edit {self.path}, which is what is measured, and remove that folder",
            )  # fmt: skip
        return kept

    def check_keepable(self) -> None:
        """Raises: ConfigError if the items file is named by a path that leads out of the YAML's folder."""
        items = Path(self.spec.items or "")
        if items.is_absolute() or ".." in items.parts:
            raise ConfigError(
                f"the items file {self.spec.items!r} lies elsewhere, so that a copy of the template could not find it",
                where=f"{self.path}: items", fix="put it beside the YAML, in a folder below, or in data_dir",
            )  # fmt: skip

    def score(
        self, scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
    ) -> list[dict[str, Any]]:
        """One record for each item: ``margin_nats`` between the two roles of ``margin``, on log-probabilities where the
        options part (``score: first``) or over whole options (``whole``); both stand in the record."""
        options = [list(item["options"]) for item in items]
        if self.spec.chat:
            prompts = [[{"role": "user", "content": item["prompt"]}] for item in items]
            found = scorer.options(prompts, options, progress=progress)
        else:
            found = scorer.continuations([item["prompt"] for item in items], options, progress=progress)
        margin = self._margin_roles()
        records = []
        for item, scores in zip(items, found, strict=True):
            roles = list(item["roles"])
            first, whole = [one.logp_first for one in scores], [one.logp_whole for one in scores]
            values = first if self.spec.score == "first" else whole
            known = all(math.isfinite(value) for value in values)
            best = max(values) if known else math.nan
            chosen = [role for role, value in zip(roles, values, strict=True) if value == best]
            role = (chosen[0] if len(chosen) == 1 else "tie") if known else ""
            records.append(
                {
                    "benchmark": self.spec.name, "item_id": item["id"], "cluster": item["cluster"], "axis": item["axis"],
                    "groups": "|".join(item["groups"]), "lang": item["lang"], "condition": item["condition"], "roles": roles,
                    "logps_first": first, "logps_whole": whole, "n_tokens": [one.n_tokens for one in scores],
                    "chosen_role": role,
                    "margin_nats": values[roles.index(margin[0])] - values[roles.index(margin[1])] if margin else math.nan,
                    "correct": float(role == self.spec.correct) if self.spec.correct and known else math.nan,
                    "group": item["group"], "base_id": item["base_id"], "format": item["format"],
                    "prefix_mismatch": any(one.prefix_mismatch for one in scores),
                    "problem": next((problem for one in scores if (problem := getattr(one, "problem", ""))), ""),
                    **{f"slot_{name}": value for name, value in item["fields"].items()},
                }
            )  # fmt: skip
        return records

    def summarise(self, records: pd.DataFrame) -> dict[str, Any]:
        """Mean margin, the share of each role among the choices, accuracy where one role is correct; by group, with the
        largest difference between groups' mean margins and the group farthest from 0 (``worst_group``); by template and
        format. Records without a margin and without a choice are left out and counted as ``n_unscored``."""
        found = self._numbers(records)
        for name, column in (("by_group", "group"), ("by_template", "cluster"), ("by_format", "format")):
            parts = {str(value): self._numbers(part) for value, part in records.groupby(column, sort=True) if value}
            if len(parts) > 1 or column == "cluster":
                found[name] = parts
        means = {name: part["margin_mean_nats"] for name, part in found.get("by_group", {}).items()}
        means = {name: value for name, value in means.items() if not math.isnan(value)}
        if len(means) > 1:
            found["group_gap_nats"] = max(means.values()) - min(means.values())
            found["worst_group"] = max(means, key=lambda name: abs(means[name]))
        return found

    def check_fields(self) -> None:
        """Raises: ConfigError for a brace that names no slot, or a slot that stands nowhere."""
        known = set(self._field_names())
        texts = [(f"templates.{t.id}", t.text) for t in self.spec.templates]
        texts += [(f"options.{o.role}", o.text) for o in self.spec.options]
        used: set[str] = set()
        for where, text in texts:
            for field in _FIELD.findall(text):
                used.add(field)
                if field not in known and self.spec.items is None:
                    near = difflib.get_close_matches(field, sorted(known), n=1)
                    raise ConfigError(
                        f"{{{field}}} is no slot", where=f"{self.path}: {where}",
                        fix=(f"did you mean {{{near[0]}}}? " if near else "")
                        + f"known ones: {', '.join(sorted(known)) or 'none'}",
                    )  # fmt: skip
        idle = {name for name in self.spec.slots if not any(f == name or f.startswith(name + ".") for f in used)}
        if idle:
            raise ConfigError(
                f"the slot {sorted(idle)[0]!r} stands in no template and no option", where=f"{self.path}: slots",
                fix="use it, or remove it: it would only repeat the items",
            )  # fmt: skip

    def _numbers(self, records: pd.DataFrame) -> dict[str, Any]:
        margins = [value for value in records["margin_nats"] if not math.isnan(value)]
        chosen = [role for role in records["chosen_role"] if role]
        correct = [value for value in records["correct"] if not math.isnan(value)]
        n_unscored = sum(not role for role in records["chosen_role"])
        numbers: dict[str, Any] = {
            "margin_mean_nats": math.fsum(margins) / len(margins) if margins else math.nan,
            "accuracy": math.fsum(correct) / len(correct) if correct else math.nan,
            "chosen": {role: chosen.count(role) / len(chosen) for role in sorted(set(chosen))},
            "n_items": len(records), "n_unscored": n_unscored, "n_clusters": int(records["cluster"].nunique()),
        }  # fmt: skip
        why = {
            "margin_mean_nats": "no item has a margin" if self._margin_roles() else "the file has no two roles for one",
            "accuracy": "no item was scored" if self.spec.correct else "the file names no correct role",
        }
        return numbers | {"reasons": {name: text for name, text in why.items() if math.isnan(numbers[name])}}

    def _margin_roles(self) -> tuple[str, str] | None:
        roles = [option.role for option in self.spec.options]
        if self.spec.margin is not None:
            return self.spec.margin[0], self.spec.margin[1]
        for one, others in (("stereotype", ("anti", *_UNKNOWN_ROLES)), ("yes", ("no",)), ("right", ("wrong",))):
            for other in others:
                if one in roles and other in roles:
                    return one, other
        return None

    def _field_names(self) -> Iterator[str]:
        for name, values in self.spec.slots.items():
            if isinstance(values, list) and isinstance(values[0], dict):
                yield from (f"{name}.{field}" for field in values[0])
            else:
                yield name
                if isinstance(values, dict):
                    yield f"{name}.group"

    def _fillings(self, rows: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str, dict[str, str]]]:
        """(key shared by twins, group, fields) for every filling of the slots and row of the items file."""
        slots = [list(_choices(name, values)) for name, values in self.spec.slots.items()]
        for row_number, row in enumerate(rows):
            for picks in itertools.product(*slots):
                key = "-".join([*([str(row_number)] if self.spec.items else []), *(str(place) for place, _, _ in picks)])
                fields = dict(row)
                for _, _, found in picks:
                    fields |= found
                yield key, next((group for _, group, _ in picks if group), row.get("group", "")), fields

    def _items_file(self, data_dir: Path | None) -> Path:
        name = str(self.spec.items)
        places = [self.path.parent / name, *([Path(data_dir) / name] if data_dir is not None else [])]
        for place in places:
            if place.is_file():
                return place
        raise ConfigError(
            f"the items file {name!r} is not there", where=f"{self.path}: items",
            fix=f"looked for: {', '.join(str(place) for place in places)}",
        )  # fmt: skip

    def _rows(self, data_dir: Path | None) -> list[dict[str, str]]:
        if self.spec.items is None:
            return [{}]
        file = self._items_file(data_dir)
        texts = [*(template.text for template in self.spec.templates), *(option.text for option in self.spec.options)]
        used = {field for text in texts for field in _FIELD.findall(text)}
        needed = used - set(self._field_names())
        found = []
        for line, row in _read_rows(file):
            for field in sorted(needed):
                if not str(row.get(field) or "").strip():
                    known = ", ".join(sorted(str(key) for key in row))
                    raise DataError(f"no {field}", where=f"{file}:{line}: {field}", fix=f"the row has: {known}")
            found.append({str(key): str(value) for key, value in row.items()})
        if not found:
            raise DataError("the file holds no rows", where=str(file), fix="one row for each filling")
        return found


def _read_rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason})", where=str(file), fix="save it as UTF-8") from error
    if file.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError("cells and columns differ in number", where=f"{file}:{reader.line_num}", fix="quote commas")
            rows.append((reader.line_num, dict(row)))
        return rows
    if file.suffix != ".jsonl":
        raise DataError("neither .csv nor .jsonl", where=str(file), fix="save the rows as one of them")
    found = []
    for line, one in enumerate(text.splitlines(), start=1):
        if one.strip():
            try:
                row = json.loads(one)
            except ValueError as error:
                raise DataError(f"not JSON: {error}", where=f"{file}:{line}", fix="one JSON object a line") from error
            if not isinstance(row, dict):
                raise DataError("not a JSON object", where=f"{file}:{line}", fix='{"slot": "value", …}')
            found.append((line, row))
    return found


def _size(values: Any) -> int:
    return sum(len(of) for of in values.values()) if isinstance(values, dict) else len(values)


def _choices(name: str, values: Any) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(place, group, fields): twins of different groups have the same place."""
    if isinstance(values, dict):
        for group, of in values.items():
            for place, value in enumerate(of):
                yield place, group, {name: value, f"{name}.group": group}
    else:
        for place, value in enumerate(values):
            yield place, "", {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}


def _filled(text: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda found: fields[found[1]], text)


def _config_error(path: Path, node: Any, error: ValidationError) -> ConfigError:
    # a key with a typo is also a key that is missing: the one that was written is the one to name
    first = next((one for one in error.errors() if one["type"] == "extra_forbidden"), error.errors()[0])
    # pydantic puts the member of a union it tried last into the location: no field of the file
    place = [part for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part in ("str", "dict")))]
    line, field = _line_of(node, place), ".".join(str(part) for part in place) or "file"
    what = str(first["msg"]).removeprefix("Value error, ")
    fix = "see docs/template-benchmarks.md"
    if first["type"] == "extra_forbidden":
        inner: dict[str, Any] = {"templates": Template, "options": Option} if len(place) > 1 else {}
        known = sorted(inner.get(str(place[0]), TemplateSpec).model_fields)
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        what = f"unknown key {place[-1]!r}"
        fix = (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known)}"
    elif first["type"] == "missing":
        what, fix = "the field is missing", f"add {place[-1]}: …"
    elif not place:  # a rule over several fields: it names its own
        field, _, rest = what.partition(": ")
        line, what = _line_of(node, field.split(".")), rest or what
    return ConfigError(f"{what}", where=f"{path}:{line}: {field}", fix=fix)


def _line_of(node: Any, place: Sequence[Any]) -> int:
    """The line of the deepest field of ``place`` that the file has."""
    line = 1
    for part in place:
        value = getattr(node, "value", None)
        if not isinstance(value, list):
            break
        if isinstance(part, int) and part < len(value) and not isinstance(value[part], tuple):
            node = value[part]
            line = node.start_mark.line + 1
            continue
        pair = next((pair for pair in value if isinstance(pair, tuple) and pair[0].value == str(part)), None)
        if pair is None:
            break
        node, line = pair[1], pair[0].start_mark.line + 1
    return line
