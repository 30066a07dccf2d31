"""`from graft import transfer` in any order, and no torch before it is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import graft


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_graft_imports_no_torch() -> None:
    assert python("import sys, graft; print('torch' in sys.modules, 'numpy' in sys.modules)") == "False False"


IMPORTS = [
    "from graft import transfer, TransferError",
    "import graft.transfer.ledger; from graft import transfer, TransferError",
    "from graft import TransferError, transfer; import graft.transfer.donor",
    "from graft.transfer import transfer, TransferError",
    "import graft.transfer; transfer = graft.transfer; TransferError = graft.TransferError",
]


def test_transfer_is_callable_whichever_way_it_was_imported() -> None:
    code = f"""
import sys
from torch import nn
for imports in {IMPORTS}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "graft"]:
        del sys.modules[name]
    exec(imports)
    ledger = transfer(nn.Linear(2, 2), nn.Linear(2, 2))
    assert issubclass(TransferError, ValueError)
    print(ledger.summary["copied"], end=" ")
"""
    assert python(code) == "2 2 2 2 2"


def test_an_unknown_attribute_is_one() -> None:
    with pytest.raises(AttributeError, match="no attribute 'graftify'"):
        graft.graftify  # noqa: B018


def test_the_package_takes_what_the_function_takes() -> None:
    parameters = list(inspect.signature(graft.transfer.transfer).parameters)
    assert parameters == ["donor", "target", "match", "rename", "skip", "ignore", "adapt", "table", "dtype", "seed"]
