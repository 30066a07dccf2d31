"""A run's folder comes back as it was written, and what is damaged in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from graft.config.faults import InputError
from graft.report.record import read_run
from graft.report.run_settings import settings_of
from tests.run_folder import write_run


def test_overrides_come_back_as_they_were_typed(tmp_path: Path) -> None:
    """Hydra quotes some of them in its file, and folds the long ones."""
    typed = [
        "optimizer.lr_scale={head: 10}",
        "donor.path='my donor.pt'",
        "data.root='it\\'s here'",
        "donor.rename=[['^encoder\\.','']]",
        f"donor.table={{{', '.join(f'layer{k}.a: layer{k}.b' for k in range(9))}}}",
    ]
    run = write_run(tmp_path / "run", pictures=False)
    OmegaConf.save(OmegaConf.create(typed), run / ".hydra" / "overrides.yaml")
    assert read_run(run).overrides == tuple(typed)
    (run / ".hydra" / "overrides.yaml").unlink()
    assert read_run(run).overrides == ()


@pytest.mark.parametrize("name", ["metrics.csv", "predictions.csv"])
def test_a_damaged_table_is_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", pictures=False)
    with open(run / name, "ab") as file:
        file.write(b"\xff\xfe")
    with pytest.raises(InputError, match=rf"{name}: expected a CSV file"):
        read_run(run)


def test_damaged_yaml_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures=False)
    (run / ".hydra" / "config.yaml").write_text("seed: [")
    with pytest.raises(InputError, match=r"config\.yaml: expected YAML"):
        settings_of(read_run(run))
    (run / ".hydra" / "overrides.yaml").write_text("- 'seed")
    with pytest.raises(InputError, match=r"overrides\.yaml: expected YAML"):
        read_run(run)
