"""`graft export MODEL --format …`: writes the weights for other tools, and checks that these compute the same."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.commands.own_code import add_import_code
from graft.config.choices import Library, Resize
from graft.config.faults import InputError
from graft.inference import graphs
from graft.results.keras.write import write_keras

if TYPE_CHECKING:
    from graft.results.model import OpenedModel

CROP_MODES = {Resize.crop: "center", Resize.squash: "squash", Resize.letterbox: "border"}
"""timm's names."""
NAME = "export"
HELP = "write a run's weights for torchvision, timm, ONNX, torch.export, Keras"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="+", metavar="MODEL",
        help="a run's folder, or an exported model's; with onnx or torch-export, several, whose answers are averaged",
    )  # fmt: skip
    parser.add_argument(
        "--format",
        choices=sorted(WRITERS),
        default="safetensors",
        help="safetensors: a folder that graft.load opens (default); torchvision: a state dict (.pth) that the plain "
        "model loads strictly; timm: a folder for timm.create_model('local-dir:…'); onnx, torch-export: a file (.onnx, "
        ".pt2) from the pixels of one picture of any size, uint8 H, W, C, to probabilities; keras: a model of images "
        "N, H, W, C (.keras, or .weights.h5 by the name of --output)",
    )
    parser.add_argument(
        "--logits", action="store_true",
        help="with onnx or torch-export: from preprocessed images N, C, S, S of any number to logits",
    )  # fmt: skip
    parser.add_argument("--output", help="where to; by default beside the model, named after the format")
    add_import_code(parser)


def run(args: argparse.Namespace) -> int:
    from graft.inference.load import open_model
    from graft.results.export import write_account

    opened, *others = (open_model(model, import_code=args.import_code) for model in args.model)
    suffix, write = WRITERS[args.format]
    if args.logits:
        if args.format not in OF_LOGITS:
            raise InputError(f"--logits: expected --format {' or '.join(OF_LOGITS)}, received {args.format}")
        write = OF_LOGITS[args.format]
    if others:
        check_alike(opened, others)
        if args.logits or args.format not in OF_SEVERAL:
            raise InputError(
                f"MODEL: expected one with --format {args.format}{' --logits' if args.logits else ''}, received"
                f" {1 + len(others)}; try --format {' or '.join(OF_SEVERAL)}, which average their answers"
            )
    path = Path(args.output) if args.output else opened.folder / f"export-{args.format}{suffix}"
    if path.exists() and path.is_dir() != (suffix == ""):
        raise InputError(f"--output: expected a {'file' if suffix else 'folder'}, received {path}; try another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if others:
        OF_SEVERAL[args.format](opened, path, others)
        write_members(path, [opened, *others])
    else:
        write(opened, path)
        if suffix:
            write_account(path, opened.record)
    print(path)
    return 0


def check_alike(opened: OpenedModel, others: Sequence[OpenedModel]) -> None:
    """Raises InputError unless all models answer the same question."""
    for other in others:
        for name, mine, theirs in (
            ("task", opened.task.kind.value, other.task.kind.value),
            ("classes", opened.classes, other.classes),
            ("channels", opened.preprocess.settings.channels, other.preprocess.settings.channels),
        ):
            if mine != theirs:
                raise InputError(f"{other.folder}: expected the {name} of {opened.folder}, {mine}, received {theirs}")


def write_members(path: Path, models: Sequence[OpenedModel]) -> None:
    """FILE.json beside an average: the hash of the file, and each member's record."""
    from graft.system.files import sha256, write_json

    members = [dict(opened.record) for opened in models]
    for member in members:
        member.pop("tensors", None)
    write_json(
        path.with_name(f"{path.name}.json"),
        {"weights": {"file": path.name, "sha256": sha256(path)}, "members": members},
    )


def write_safetensors(opened: OpenedModel, folder: Path) -> None:
    """The model folder again: model.safetensors, model.json and README.md."""
    from graft.results.export import separate_tensors, write_folder

    if folder.resolve() == opened.folder.resolve():
        raise InputError(f"--output: expected another folder than the model's own, received {folder}")
    write_folder(folder, separate_tensors(opened.module), opened.record)


def write_torchvision(opened: OpenedModel, path: Path) -> None:
    """A plain state dict: torchvision.models.get_model(name, num_classes=…).load_state_dict(torch.load(path))."""
    import torch

    from graft.results.export import separate_tensors
    from graft.system.files import atomic_path

    check_plain(opened, "torchvision")
    with atomic_path(path) as temporary:
        torch.save(separate_tensors(opened.module), temporary)


def write_timm(opened: OpenedModel, folder: Path) -> None:
    """The model folder with timm's config.json: timm.create_model("local-dir:FOLDER", pretrained=True)."""
    from graft.system.files import write_json

    check_plain(opened, "timm")
    if (resize := Resize(opened.preprocess.settings.resize)) not in CROP_MODES:
        raise InputError(
            f"--format timm: expected images as timm prepares them, received data.resize={resize.value}; "
            "try --format safetensors"
        )
    (folder / "config.json").unlink(missing_ok=True)
    write_safetensors(opened, folder)
    write_json(folder / "config.json", timm_config(opened))


def timm_config(opened: OpenedModel) -> dict[str, object]:
    """What timm's `local-dir:` reads: architecture, classes, how the images must look."""
    build, settings = opened.record["build"], opened.preprocess.settings
    published = getattr(opened.module, "pretrained_cfg", {})
    arguments = {**build["kwargs"], **({"in_chans": build["channels"]} if build["channels"] != 3 else {})}
    return {
        "architecture": build["name"].split(".")[0],
        "num_classes": build["num_classes"],
        "label_names": list(opened.classes),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [settings.channels, settings.image_size, settings.image_size],
            "crop_pct": settings.crop_fraction,
            "crop_mode": CROP_MODES[Resize(settings.resize)],
            "interpolation": settings.interpolation,
            "mean": list(settings.mean),
            "std": list(settings.std),
            "num_classes": build["num_classes"],
            **{key: published[key] for key in ("classifier", "first_conv", "fixed_input_size") if key in published},
        },
    }


WRITERS: dict[str, tuple[str, Callable[[OpenedModel, Path], None]]] = {
    "safetensors": ("", write_safetensors),
    "torchvision": (".pth", write_torchvision),
    "timm": ("", write_timm),
    "onnx": (".onnx", graphs.write_onnx),
    "torch-export": (".pt2", graphs.write_torch_export),
    "keras": (".keras", write_keras),
}
"""Format to the file's suffix (none for a folder) and what writes it."""
OF_LOGITS: dict[str, Callable[[OpenedModel, Path], None]] = {
    "onnx": graphs.write_onnx_of_logits,
    "torch-export": graphs.write_torch_export_of_logits,
}
"""What writes a format with --logits."""
OF_SEVERAL: dict[str, Callable[[OpenedModel, Path, Sequence[OpenedModel]], None]] = {
    "onnx": graphs.write_onnx,
    "torch-export": graphs.write_torch_export,
}
"""What writes the average of several models."""


def check_plain(opened: OpenedModel, library: str) -> None:
    """Raises InputError unless the weights fit the library's own model, head included."""
    from graft.models.network import plain_model

    build, head = opened.record["build"], opened.record["head"]
    if build["library"] == Library.custom.value:
        raise InputError(
            f"--format {library}: expected a {library} model, received {build['name']}, which is your own; "
            "try --format safetensors, onnx or torch-export"
        )
    if build["library"] != library:
        raise InputError(
            f"--format {library}: expected a {library} model, received {build['name']} of {build['library']}; "
            f"try --format {build['library']}"
        )
    if build.get("altered"):
        raise InputError(
            f"--format {library}: expected layers as the library's own {build['name']} has them, received "
            f"{len(build['altered'])} that are set otherwise ({', '.join(list(build['altered'])[:3])}), so the plain "
            "model would compute something else; try --format onnx, torch-export or safetensors"
        )
    plain = {name: value.shape for name, value in plain_model(build).state_dict().items()}
    if plain != {name: value.shape for name, value in opened.module.state_dict().items()}:
        raise InputError(
            f"--format {library}: expected the library's own last layer, received head={head['kind']}, which no plain "
            f"{build['name']} has; try --format onnx, torch-export or safetensors"
        )
