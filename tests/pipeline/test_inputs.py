"""Images and donor, read anew or kept from run to run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from graft.config.choices import CacheKind, DataKind, DonorKind, Library, Mode
from graft.config.schema import BackboneConfig, Config, DataConfig, DonorConfig
from graft.config.schema_images import CacheConfig
from graft.data import contents
from graft.pipeline.inputs import Inputs, SharedInputs


def images(root: Path) -> DataConfig:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16), (len(name), 5, 9)).save(root / part / name / f"{part}{name}.png")
    return DataConfig(kind=DataKind.folder, root=str(root))


def config(path: Path, data: DataConfig) -> Config:
    backbone = BackboneConfig(library=Library.torchvision, name="resnet18")
    donor = DonorConfig(kind=DonorKind.file, path=str(path))
    return Config(backbone=backbone, donor=donor, data=data, cache=CacheConfig(kind=CacheKind.none))


def test_kept_inputs_are_read_once_and_anew_where_the_config_differs(tmp_path: Path) -> None:
    data = images(tmp_path / "images")
    other = images(tmp_path / "others")
    kept = SharedInputs()
    same, again, others = (config(tmp_path, each) for each in (data, images_again(data), other))
    assert kept.table(same) is kept.table(again)
    assert kept.table(same) == Inputs().table(same)
    assert kept.table(others) is not kept.table(same)
    save_file({"w": torch.ones(3)}, tmp_path / "one.safetensors")
    save_file({"w": torch.zeros(3)}, tmp_path / "two.safetensors")
    with kept.donor(config(tmp_path / "one.safetensors", data)) as donor:
        digest = donor.sha256
        assert donor.read("w").tolist() == [1, 1, 1]
    donor.remarks.append("of this run only")
    (tmp_path / "one.safetensors").unlink()
    with kept.donor(config(tmp_path / "one.safetensors", data)) as again:  # it was not opened again
        assert again.read("w").tolist() == [1, 1, 1]
        assert again.sha256 == digest
        assert "of this run only" not in again.remarks
    with kept.donor(config(tmp_path / "two.safetensors", data)) as donor:
        assert donor.read("w").tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "mode", "remembers"),
    [
        (CacheKind.auto, Mode.train, True),
        (CacheKind.auto, Mode.plan, False),
        (CacheKind.none, Mode.train, False),
    ],
)
def test_what_the_images_hold_is_remembered_beside_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: CacheKind, mode: Mode, remembers: bool
) -> None:
    monkeypatch.setattr(contents, "SETTLED_SECONDS", -1.0)  # the files have just been written
    chosen = config(tmp_path, images(tmp_path / "images"))
    chosen.cache, chosen.mode = CacheConfig(kind=kind, dir=str(tmp_path / "cache")), mode
    table = Inputs().table(chosen)
    assert all(len(sample.content) == 32 for sample in (*table.train, *table.val))
    assert len({sample.content for sample in table.train}) == 1  # the two classes' pictures are one
    assert (tmp_path / "cache").exists() == remembers


def images_again(data: DataConfig) -> DataConfig:
    return DataConfig(kind=data.kind, root=data.root)
