"""Does an ensemble err where its members disagree? On the sandbox, where the truth is known.

    python recipes/reward_model.py --config recipes/configs/sandbox/reward_model.yaml --num_members 5 \\
        --num_sandbox_pairs 250 --num_train_epochs 1 --output_dir runs/ensemble
    python benchmarks/ensemble_uncertainty.py --ensemble runs/ensemble

(Taught with the shipped number of pairs it makes no errors that could be told apart.) Two sets of pairs that no member
learned from: the held-out ones of the taught axes (other names, occupations, templates), and the axis that no pair was
about. For both: accuracy of the ensemble and, on average, of one member; the area under the ROC
curve of three signs of an error (.5 = says nothing): the disagreement, the share of members that order the pair otherwise,
and, for comparison, a small margin, which one model shows too (mean over members); and the accuracy that is left where the
tenth, quarter and half with the largest disagreement are set aside.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np


def measured(ensemble: Any, pairs: Any) -> dict[str, Any]:
    """:func:`uncertainty_report`, beside it one member's own sign, and accuracy over coverage."""
    from sklearn.metrics import roc_auc_score

    from teachfair.reward_models.ensemble import pair_uncertainty, uncertainty_report

    chosen, rejected = ensemble.member_rewards_of_pairs(pairs)
    report, found = uncertainty_report(chosen, rejected), pair_uncertainty(chosen, rejected)
    gaps = chosen - rejected
    alone = [roc_auc_score(gap <= 0, -abs(gap)) for gap in gaps if 0 < (gap <= 0).sum() < gap.size]
    report["auroc_small_margin_of_one_member"] = float(np.mean(alone)) if alone else None
    right = (found["margin"] > 0)[np.argsort(found["disagreement"], kind="stable")]
    report["accuracy_without_the_most_disputed"] = {
        f"{share:g}": float(right[: round((1 - share) * right.size)].mean()) for share in (0.1, 0.25, 0.5)
    }
    return report


def main() -> None:
    """Measure both sets; print them and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ensemble", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1000, help="pairs of each set")
    parser.add_argument("--seed", type=int, default=7, help="of the pairs; another one than in training")
    parser.add_argument("--world_seed", type=int, default=0)
    parser.add_argument("--bias", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    from teachfair.alignment import lesson
    from teachfair.data.pairs import pairs_dataset
    from teachfair.reward_models.ensemble import RewardEnsemble

    ensemble = RewardEnsemble.load(args.ensemble)
    world = lesson.world(lesson.sandbox(seed=args.world_seed, bias=args.bias))
    sets = {
        "held out": world.pairs(args.n, split="test", seed=args.seed),
        "untaught axis": world.pairs(args.n, split="test", seed=args.seed, axis=world.untaught_axis),
    }
    table = {name: measured(ensemble, pairs_dataset(rows)) for name, rows in sets.items()}
    print(json.dumps(table, indent=1))
    if args.out:
        args.out.write_text(json.dumps({"members": len(ensemble.members), "sets": table}, indent=1))


if __name__ == "__main__":
    main()
