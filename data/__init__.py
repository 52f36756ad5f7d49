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
    hh_harmless,
    holistic_bias,
    jigsaw_identity_templates,
    preference_file,
    sampled_pairs,
    sandbox,
    stereoset,
    stereoset_pairs,
    winobias,
)

# Sources of single texts, labelled or neutral, for auditing a classifier: ``texts(path, **options) -> list of dicts``.
TEXT_SOURCES: dict[str, ModuleType] = {
    "holistic_bias": holistic_bias,
    "jigsaw_identity_templates": jigsaw_identity_templates,
}

SOURCES: dict[str, ModuleType] = {
    "sandbox": sandbox,
    "bbq": bbq,
    "bbq_ambiguous_answers": bbq_ambiguous_answers,
    "crows_pairs": crows_pairs,
    "crows_pairs_revised": crows_pairs_revised,
    "hh_harmless": hh_harmless,
    "holistic_bias": holistic_bias,
    "jigsaw_identity_templates": jigsaw_identity_templates,
    "stereoset": stereoset,
    "stereoset_pairs": stereoset_pairs,
    "winobias": winobias,
    "sampled_pairs": sampled_pairs,
    "preference_file": preference_file,
}

# What --dataset_source may be for training, auditing and sampling: HolisticBias gives texts only.
PAIR_SOURCES = tuple(name for name in SOURCES if name != "holistic_bias")
