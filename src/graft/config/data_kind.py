"""data.root alone is enough: what it names says whether the images come from class folders or from a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from graft.config.own_configs import conf_folder, own_folders

ROOT = "data.root"
TABLES = (".csv", ".tsv")


def with_data_kind(words: Sequence[str]) -> list[str]:
    """The command line's words, with data=folder or data=csv behind a data.root whose group nobody has chosen.

    A root that varies in a sweep, or that is still to be resolved, chooses nothing.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    if "data" in keys or keys.count(ROOT) != 1 or any(_chooses_data(word) for word in words):
        return [*words]
    at = keys.index(ROOT)
    root = words[at].partition("=")[2].strip("'\"")
    if not root or set(root) & set("$,[{("):
        return [*words]
    kind = "csv" if Path(root).suffix.lower() in TABLES else "folder"
    return [*words[: at + 1], f"data={kind}", *words[at + 1 :]]


def _chooses_data(word: str) -> bool:
    """Whether the word is an experiment in whose defaults the group data stands."""
    key, _, name = word.lstrip("+").partition("=")
    if key != "experiment":
        return False
    for folder in (conf_folder(), *own_folders()):
        path = folder / "experiment" / f"{name}.yaml"
        try:
            preset = OmegaConf.load(path) if path.is_file() else None
        except YAMLError:  # which composing blames
            return False
        if isinstance(preset, DictConfig):
            entries = [entry for entry in preset.get("defaults") or () if isinstance(entry, DictConfig)]
            return any(str(group).split()[-1].lstrip("/") == "data" for entry in entries for group in entry)
    return False
