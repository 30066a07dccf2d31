"""graft diff and graft transfer on files of NumPy and JAX: the same account as of torch's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.transfer.test_donors_jax import vit_arrays


def changes(printed: str) -> dict[str, float]:
    return {row["name"]: row["change"] for row in json.loads(printed)["tensors"]}


def test_a_numpy_file_is_transferred_and_compared(graft, tmp_path: Path) -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    donor, out = tmp_path / "weights.npz", tmp_path / "out.safetensors"
    np.savez(donor, **{name: value.numpy() for name, value in state.items()})
    code, _, err = graft("transfer", "--from", donor, "--to-arch", "test_efficientnet", "--out", out)
    assert code == 0, err
    ledger = json.loads((tmp_path / "out.transfer.json").read_text())
    assert (ledger["donor"]["format"], ledger["summary"]["copied"]) == ("npz", len(state))
    assert all(torch.equal(value, state[name]) for name, value in load_file(out).items())
    code, printed, err = graft("diff", donor, out, "--json")
    assert code == 0, err
    assert set(changes(printed).values()) <= {0.0}
    assert len(changes(printed)) == len(state)


def test_two_jax_checkpoints_are_compared_under_torch_s_names(graft, tmp_path: Path) -> None:
    arrays = vit_arrays()
    np.savez(tmp_path / "before.npz", **arrays)
    np.savez(tmp_path / "after.npz", **arrays | {"embedding/kernel": 3 * arrays["embedding/kernel"]})
    code, printed, err = graft("diff", tmp_path / "before.npz", tmp_path / "after.npz", "--json")
    assert code == 0, err
    found = changes(printed)
    assert found.pop("patch_embed.proj.weight") == pytest.approx(2)
    assert set(found.values()) == {0.0}
