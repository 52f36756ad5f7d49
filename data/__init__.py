"""Ground floor: preference pairs and the sources they come from.

``SOURCES`` maps a name to a module with a ``CARD`` and ``load(path_or_id, split="train", **options)``, which
returns a Dataset of pairs. To add a source: one module in ``data/sources/`` and one line here.
"""

from __future__ import annotations

from types import ModuleType

from teachfair.data.sources import (
    bbq,
    bbq_ambiguous_answers,
    crows_pairs,
    crows_pairs_revised,
    preference_file,
    sandbox,
    stereoset,
    stereoset_pairs,
    winobias,
)

SOURCES: dict[str, ModuleType] = {
    "sandbox": sandbox,
    "bbq": bbq,
    "bbq_ambiguous_answers": bbq_ambiguous_answers,
    "crows_pairs": crows_pairs,
    "crows_pairs_revised": crows_pairs_revised,
    "stereoset": stereoset,
    "stereoset_pairs": stereoset_pairs,
    "winobias": winobias,
    "preference_file": preference_file,
}
