"""One vocabulary of axes for every source, and each source's own words for them.

Sources name the same dimension differently ("race-color", "Race_ethnicity", "race"). Reports, mixes and the wall compare
axes across sources, so a pair carries the word of :data:`AXES`; the benchmarks keep their authors' words.
"""

from __future__ import annotations

AXES = (
    "age",
    "disability",
    "gender",
    "sexual-orientation",
    "race",
    "nationality",
    "religion",
    "profession",
    "socioeconomic",
    "physical-appearance",
    "politics",
    "culture",
    "characteristics",
    "race+gender",
    "race+socioeconomic",
    "none",
)

_CROWS = {
    "race-color": "race",
    "gender": "gender",
    "socioeconomic": "socioeconomic",
    "nationality": "nationality",
    "religion": "religion",
    "age": "age",
    "sexual-orientation": "sexual-orientation",
    "physical-appearance": "physical-appearance",
    "disability": "disability",
}

_BBQ = {
    "Age": "age",
    "Disability_status": "disability",
    "Gender_identity": "gender",
    "Nationality": "nationality",
    "Physical_appearance": "physical-appearance",
    "Race_ethnicity": "race",
    "Race_x_SES": "race+socioeconomic",
    "Race_x_gender": "race+gender",
    "Religion": "religion",
    "SES": "socioeconomic",
    "Sexual_orientation": "sexual-orientation",
}

# source -> its own label -> the axis. "none" is HolisticBias' nonce words, which mean no group: a control.
OF_SOURCE: dict[str, dict[str, str]] = {
    "stereoset": {name: name for name in ("gender", "profession", "race", "religion")},
    "crows_pairs": _CROWS,
    "crows_pairs_revised": _CROWS,
    "bbq": _BBQ,
    "bbq_ambiguous_answers": _BBQ,
    "holistic_bias": {
        "ability": "disability",
        "age": "age",
        "body_type": "physical-appearance",
        "characteristics": "characteristics",
        "cultural": "culture",
        "gender_and_sex": "gender",
        "nationality": "nationality",
        "nonce": "none",
        "political_ideologies": "politics",
        "race_ethnicity": "race",
        "religion": "religion",
        "sexual_orientation": "sexual-orientation",
        "socioeconomic_class": "socioeconomic",
    },
    # Jigsaw's templates name no axis; this is our own sorting of their 50 identity terms.
    "jigsaw_identity_templates": {
        **dict.fromkeys(
            "lesbian gay bisexual queer lgbt lgbtq homosexual straight heterosexual".split(), "sexual-orientation"
        ),
        **dict.fromkeys("transgender trans male female nonbinary".split(), "gender"),
        **dict.fromkeys(
            ("african american", "black", "white", "hispanic", "latino", "latina", "latinx", "asian", "middle eastern"),
            "race",
        ),
        **dict.fromkeys("african european mexican canadian american indian chinese japanese".split(), "nationality"),
        **dict.fromkeys("christian muslim jewish buddhist catholic protestant sikh taoist".split(), "religion"),
        **dict.fromkeys(("old", "older", "young", "younger", "teenage", "millenial", "middle aged", "elderly"), "age"),
        **dict.fromkeys("blind deaf paralyzed".split(), "disability"),
    },
}
