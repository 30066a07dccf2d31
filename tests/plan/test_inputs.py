"""Images and donor, read anew or kept from run to run."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from graft.config.schema import BackboneConfig, Config, DataConfig, DataKind, DonorConfig, DonorKind, Library
from graft.inputs import Inputs, KeptInputs


def images(root: Path) -> DataConfig:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16), (len(name), 5, 9)).save(root / part / name / f"{part}{name}.png")
    return DataConfig(kind=DataKind.folder, root=str(root))


def config(path: Path, data: DataConfig) -> Config:
    backbone = BackboneConfig(library=Library.torchvision, name="resnet18")
    return Config(backbone=backbone, donor=DonorConfig(kind=DonorKind.file, path=str(path)), data=data)


def test_kept_inputs_are_read_once_and_anew_where_the_config_differs(tmp_path: Path) -> None:
    data = images(tmp_path / "images")
    other = images(tmp_path / "others")
    kept = KeptInputs()
    assert kept.table(data) is kept.table(images_again(data))
    assert kept.table(data) == Inputs().table(data)
    assert kept.table(other) is not kept.table(data)
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


def images_again(data: DataConfig) -> DataConfig:
    return DataConfig(kind=data.kind, root=data.root)
