"""The flags of Hydra's command line, as its documentation lists them, for who reads a command before Hydra does."""

from __future__ import annotations

from argparse import ArgumentParser

SWITCHES = {"--help": "-h", "--hydra-help": "", "--version": "", "--resolve": "", "--run": "-r", "--multirun": "-m",
            "--shell-completion": "-sc"}  # fmt: skip
VALUES = {"--package": "-p", "--config-path": "-cp", "--config-name": "-cn", "--config-dir": "-cd",
          "--experimental-rerun": ""}  # fmt: skip
CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def flags_parser() -> ArgumentParser:
    """Takes Hydra's flags, and all other words as `overrides`. A test holds it against the installed Hydra's own."""
    parser = ArgumentParser(add_help=False, description="Hydra")
    parser.add_argument("overrides", nargs="*")
    for name, short in SWITCHES.items():
        parser.add_argument(name, *filter(None, [short]), action="store_true")
    for name, short in VALUES.items():
        parser.add_argument(name, *filter(None, [short]))
    parser.add_argument("--cfg", "-c", choices=CFG)
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    return parser
