"""Audit preference pairs: what tells the fair answer from the unfair one without reading it?

    python recipes/audit_pairs.py --dataset_name pairs.jsonl --output_dir runs/audit
    python recipes/audit_pairs.py --dataset_source stereoset_pairs --dataset_name data/stereoset_pairs_phd

Equal sides, near-duplicates, and rulers fitted on other clusters: length, white space, first token, stock openings,
punctuation, mention count, order in the prompt, identity terms, bag of words. Writes audit.html, audit.json and run.json.
Without arguments: the sandbox's pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teachfair.data import PAIR_SOURCES
from teachfair.doors import Door, argument


@dataclass
class AuditPairsArguments:
    """Which pairs, and where the page goes."""

    dataset_name: str | None = argument("preference file, folder or hub id, as the source reads it. Default: the sandbox")
    dataset_source: str | None = argument(
        f"source that reads it: {', '.join(PAIR_SOURCES)}. Default: preference_file; sandbox without a name"
    )
    dataset_split: str = argument("split to audit", "train")
    output_dir: str = argument("folder to make", "runs/audit-pairs")
    folds: int = argument("folds of the cross-validation; whole clusters are held out", 5)
    seed: int = argument("seed of the folds", 0)


def run(own: AuditPairsArguments) -> None:
    """Load the pairs, audit them, write the page."""
    from teachfair import runs
    from teachfair.data import SOURCES
    from teachfair.data.audit import audit_lines, audit_page, audit_pairs
    from teachfair.data.pairs import FORMATS, read_preference_file
    from teachfair.errors import ConfigError, unknown_name

    if own.folds < 2:
        raise ConfigError("at least two folds are needed", where=f"--folds {own.folds}", fix="give 2 or more")
    source = own.dataset_source or ("preference_file" if own.dataset_name else "sandbox")
    if source not in SOURCES:
        raise unknown_name("dataset_source", source, SOURCES)
    dropped = 0
    path = Path(own.dataset_name or "")
    if source == "preference_file" and path.is_file() and path.suffix.lower() in FORMATS:
        pairs, counts = read_preference_file(path, drop_equal=True)  # an equal pair is a finding here, not an error
        dropped = counts.dropped_equal
    else:
        pairs = SOURCES[source].load(own.dataset_name, split=own.dataset_split)
    audit = audit_pairs(pairs, folds=own.folds, seed=own.seed, dropped_equal=dropped)
    title = f"Pair audit: {own.dataset_name or source}"
    with runs.whole_folder(own.output_dir) as out:
        runs.write_json(out / "audit.json", audit)
        runs.write_text(out / "audit.html", audit_page(audit, title))
        runs.write_record(out, what="audit-pairs", source=source, dataset=own.dataset_name, found=audit["found"])
    print("\n".join(audit_lines(audit)))
    print(f"audit: {Path(own.output_dir) / 'audit.html'}")


door = Door("audit-pairs", __doc__, AuditPairsArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
