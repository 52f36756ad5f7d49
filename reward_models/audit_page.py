"""The page of a reward-model audit: one self-contained HTML file without scripts or requests, all data escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teachfair.reward_models import audit_figures
from teachfair.reward_models.audit_probes import MIN_SHIFT, MIN_SHIFT_OF_A_CLASS, MIN_SHIFT_OF_A_GROUP, min_shift
from teachfair.svg import plain


def audit_page(audit: Mapping[str, Any], title: str) -> str:
    """Args: audit: of ``auditing.audit_reward``."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["text"] = lambda text, width=400: plain(text, width)
    environment.filters["num"] = lambda value: "–" if value is None else f"{value:.3f}"
    pictures = {
        "reliability": audit_figures.reliability(audit["calibration"]["reliability"]),
        "shortcuts": audit_figures.shortcut_shifts(audit["shortcuts"], min_shift),
        "groups": [
            audit_figures.group_rates(table["groups"], table["overall"]["value"], str(number))
            for number, table in enumerate(audit["groups"])
        ],
    }
    drawn = {
        name: [markupsafe.Markup(each) for each in found] if isinstance(found, list) else markupsafe.Markup(found)
        for name, found in pictures.items()
    }
    template = environment.get_template("audit_reward.html.j2")
    floors = {
        "min_shift": MIN_SHIFT, "min_of_a_class": MIN_SHIFT_OF_A_CLASS, "min_of_a_group": MIN_SHIFT_OF_A_GROUP
    }  # fmt: skip
    return template.render(audit=audit, title=title, pictures=drawn, **floors)


def audit_lines(audit: Mapping[str, Any]) -> list[str]:
    """The verdict for a terminal."""
    lines = [f"{audit['pairs']['n']} held-out pairs in {audit['pairs']['clusters']} clusters"]
    for key, heading in (("may", "may be used"), ("may_not", "may not be used"), ("not_judged", "not judged")):
        lines.append(f"{heading}:")
        lines += [f"  {plain(finding['text'])}{_number(finding)}" for finding in audit["verdict"][key]]
    return lines


def _number(finding: Mapping[str, Any]) -> str:
    if finding["value"] is None:
        return ""
    if finding["low"] is None:
        return f": {finding['value']:.3f}"
    return f": {finding['value']:.3f} [{finding['low']:.3f}, {finding['high']:.3f}]"
