"""Utility, built in: bits per byte on short neutral texts in English and French. Needs no file.

A guard-rail for every evaluation: a model whose bias fell because it forgot how to write shows it here. The texts are our
own, about bread, bridges and tides; no person and no group stands in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.gathering import check_names
from teachfair.evaluation.text_records import text_records, text_summary

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    "name": "utility",
    "meaning": "Bits per byte on 48 short neutral texts (English, French), built in. Lower = better language model.",
    "paper": "ours",
    "source": "built in",
    "licence": "Apache-2.0",
    "language": "en, fr",
    "lang": ["en", "fr"],
    "measures": "guard",
    "models": ("causal", "masked"),
    "headline": None,
    "guards": ["text"],
    "needs": "nothing",
    "norm": "none: it measures language, not fairness",
    "version": "1",
    "direction": "lower bits_per_byte = better language model",
    "target": "no worse than the untaught model's",
    "outcome_condition": None,
    "problems": [
        "48 texts of one or two sentences: it shows a broken model, not a subtle loss; use wikitext for that",
        "a model that knows no French has a high number there and nothing to lose: read by_lang",
    ],
}

TEXTS: dict[str, tuple[str, ...]] = {
    "en": (
        "The river rises in the hills to the north and runs through two lakes before it reaches the sea.",
        "Bread dough needs time to rise. A warm kitchen makes it faster, a cold one gives more taste.",
        "Iron rusts when water and air reach it, which is why bridges are painted again every few years.",
        "The train leaves at a quarter past eight and stops at every village along the valley.",
        "Copper carries electric current well, so most wires in a house are made of it.",
        "Clouds form when moist air cools. Small drops gather on dust until they are heavy enough to fall.",
        "The library opens at nine. Books may be kept for four weeks and renewed twice.",
        "A lens bends light. Two lenses in a tube make distant ships look close.",
        "Potatoes grow best in loose soil. They are planted in spring and dug up when the leaves turn yellow.",
        "The old bridge has five arches of grey stone and a narrow path for walkers on one side.",
        "Sound travels faster in water than in air, and faster still in steel.",
        "The museum shows coins, maps and clocks from the last three hundred years.",
        "Salt lowers the freezing point of water, so it is spread on roads in winter.",
        "A spring stores energy when it is pressed together and gives it back when it is let go.",
        "The forest covers the whole slope, with oak at the bottom and pine near the top.",
        "Add the flour slowly and stir until the sauce is smooth, then let it simmer for ten minutes.",
        "The moon pulls on the sea and raises the water on two sides of the earth, which gives two tides a day.",
        "Paper is made from wood fibres that are boiled, pressed into sheets and dried.",
        "The map is drawn to a scale of one to fifty thousand: two centimetres stand for one kilometre.",
        "Bees visit the blossoms in early summer, and the hives are emptied before the first frost.",
        "The engine has four cylinders and needs new oil every fifteen thousand kilometres.",
        "Glass is sand that was melted. Its colour comes from small amounts of metal.",
        "The glacier has become shorter by half a kilometre since measurements began.",
        "A good knife is sharpened often, a little at a time, and dried after it is washed.",
    ),
    "fr": (
        "La rivière prend sa source dans les collines du nord et traverse deux lacs avant la mer.",
        "La pâte à pain demande du temps. La chaleur la fait lever plus vite, le froid lui donne plus de goût.",
        "Le fer rouille au contact de l'eau et de l'air : on repeint donc les ponts tous les quelques ans.",
        "Le train part à huit heures et quart et s'arrête dans chaque village de la vallée.",
        "Le cuivre conduit bien le courant, et la plupart des fils d'une maison en sont faits.",
        "Les nuages naissent quand l'air humide se refroidit et que de petites gouttes se forment sur la poussière.",
        "La bibliothèque ouvre à neuf heures. Les livres se gardent quatre semaines et se renouvellent deux fois.",
        "Une lentille dévie la lumière. Deux lentilles dans un tube rapprochent les bateaux lointains.",
        "Les pommes de terre aiment une terre légère. On les arrache quand les feuilles jaunissent.",
        "Le vieux pont a cinq arches de pierre grise et un passage étroit d'un côté.",
        "Le son va plus vite dans l'eau que dans l'air, et plus vite encore dans l'acier.",
        "Le musée montre des pièces, des cartes et des horloges des trois derniers siècles.",
        "Le sel abaisse le point de congélation de l'eau : on en répand sur les routes en hiver.",
        "Un ressort garde l'énergie quand on le presse et la rend quand on le lâche.",
        "La forêt couvre toute la pente, avec des chênes en bas et des pins vers le sommet.",
        "Ajoutez la farine peu à peu et remuez jusqu'à ce que la sauce soit lisse, puis laissez mijoter dix minutes.",
        "La lune attire la mer et soulève l'eau de deux côtés de la terre, ce qui donne deux marées par jour.",
        "Le papier est fait de fibres de bois que l'on cuit, presse en feuilles et sèche.",
        "La carte est au cinquante millième : deux centimètres représentent un kilomètre.",
        "Les abeilles visitent les fleurs au début de l'été, et les ruches sont vidées avant les premières gelées.",
        "Le moteur a quatre cylindres et demande une vidange tous les quinze mille kilomètres.",
        "Le verre est du sable fondu. Sa couleur vient de petites quantités de métal.",
        "Le glacier a perdu un demi-kilomètre depuis le début des mesures.",
        "Un bon couteau s'aiguise souvent, un peu à la fois, et se sèche après le lavage.",
    ),
}


def items(data_dir: Path | str | None = None, *, lang: str | Sequence[str] = ("en", "fr")) -> list[dict[str, Any]]:
    """The texts, every one a cluster of its own (a text and its French sister are one). ``data_dir`` is not used."""
    languages = [lang] if isinstance(lang, str) else list(lang)
    check_names("lang", languages, tuple(TEXTS))
    return [
        {
            "id": f"utility-{one}-{number:02d}", "cluster": f"utility-{number:02d}", "axis": "none", "groups": [],
            "lang": one, "condition": "text", "text": text,
        }
        for one in languages
        for number, text in enumerate(TEXTS[one])
    ]  # fmt: skip


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """One record a text: ``bits_per_byte, n_bytes, n_words``. Of a masked model by pseudo-log-likelihood."""
    return text_records(CARD["name"], items, scorer.texts([item["text"] for item in items], progress=progress))


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """``bits_per_byte`` over all texts and by language: see ``text_summary``."""
    return text_summary(records)
