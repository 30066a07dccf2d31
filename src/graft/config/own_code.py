"""What of a run's config names code, which only its own user's command imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.config.examples import PYTHON
from graft.config.faults import InputError

GROUPS = ("backbone", "data", "head", "loss", "augment", "optimizer", "scheduler", "unfreeze")
TARGETS = tuple(f"{group}.target" for group in GROUPS)
TABLES = ("callbacks", "metrics", "logger.own")
"""Keys whose entries name code each."""


def refuse_own_code(run: object, settings: Mapping[str, Any]) -> None:
    """Raises InputError for a run whose config names code that carrying it out would import.

    Args:
        settings: the run's config, or the words of its command, by full keys.
    """
    named = {key: value for key, value in settings.items() if value and value != "null" and _names_code(key, value)}
    donor = str(settings.get("donor.path") or "")
    if donor.startswith(PYTHON):
        named["donor.path"] = donor
    if named:
        key, value = next(iter(named.items()))
        raise InputError(
            f"{run}: expected a run without code of its own, received {key}={value}, which this would import and run; "
            "try --import-code if you trust this run"
        )


def _names_code(key: str, value: Any) -> bool:
    at_once = key in (*GROUPS, *TABLES, "logger") and str(value).lstrip().startswith("{")  # as in head={target: …}
    of_a_table = key.startswith(tuple(f"{table}." for table in TABLES))
    return key in TARGETS or of_a_table or key.startswith(("hydra.", "hydra/")) or at_once
