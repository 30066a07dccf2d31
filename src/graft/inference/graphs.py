"""Writes a model as one graph that needs neither graft nor the backbone's library, for ONNX Runtime or torch.export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.results.agree import check_same, check_same_pictures, example_images

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graft.results.model import OpenedModel

TRACED = 2  # images: another size than those with which an export is checked


def write_onnx(opened: OpenedModel, path: Path, others: Sequence[OpenedModel] = ()) -> None:
    """One file, from pixels [H, W, C] of a picture of any size to probabilities [K]; checked in onnxruntime.

    Args:
        others: further models of the same classes, whose answers are averaged with the first one's.
    """
    from graft.inference.from_pixels import Averaged, example_pictures

    models = (opened, *others)
    pictures = example_pictures(opened)
    _write_onnx(
        models, path, Averaged(models), pictures[0], ("pixels", answers_name(opened)), _any_size(),
        lambda run: check_same_pictures(models, run, pictures, "onnx"),
    )  # fmt: skip


def _any_size() -> dict[int, Any]:
    import torch

    return {0: torch.export.Dim("height", min=2), 1: torch.export.Dim("width", min=2)}


def answers_name(opened: OpenedModel) -> str:
    return "values" if opened.task.kind is TaskKind.regression else "probabilities"


def write_onnx_of_logits(opened: OpenedModel, path: Path) -> None:
    """One file, from images [N, C, S, S] to logits [N, K], for any N; checked in onnxruntime."""
    import torch

    def same(run: Callable[[Tensor], Tensor]) -> None:
        check_same(opened, run, "onnx")

    batch = {0: torch.export.Dim("batch")}
    _write_onnx([opened], path, opened.module, example_images(opened, TRACED), ("images", "logits"), batch, same)


def _write_onnx(
    models: Sequence[OpenedModel],
    path: Path,
    module: nn.Module,
    example: Tensor,
    names: tuple[str, str],
    free: dict[int, Any],
    check: Callable[[Callable[[Tensor], Tensor]], None],
) -> None:
    """Writes the graph with the record in its metadata, if it passes the check.

    Args:
        names: names of the input and the output.
        free: the input's axes of any length.
    """
    import torch

    from graft.results.export import graph_metadata
    from graft.system.files import atomic_path

    try:
        import_module("onnxscript")
        onnxruntime: Any = import_module("onnxruntime")
        onnx: Any = import_module("onnx")
    except ImportError as error:
        raise InputError(
            f"--format onnx: expected the packages onnx, onnxscript and onnxruntime, received: {error}; "
            "try pip install 'graft-transfer[onnx]'"
        ) from error
    with atomic_path(path) as temporary:
        with torch.no_grad():
            torch.onnx.export(
                module.eval(), (example,), temporary, dynamo=True, external_data=False, verbose=False,
                input_names=[names[0]], output_names=[names[1]], dynamic_shapes=(free,),
            )  # fmt: skip
        graph = onnx.load(temporary)
        onnx.helper.set_model_props(graph, graph_metadata([each.record for each in models]))
        onnx.save(graph, temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        check(lambda images: torch.from_numpy(session.run([names[1]], {names[0]: images.numpy()})[0]))


def write_torch_export(opened: OpenedModel, path: Path, others: Sequence[OpenedModel] = ()) -> None:
    """A program of torch.export: torch.export.load(path).module()(pixels), without graft, torchvision or timm."""
    from graft.inference.from_pixels import Averaged, example_pictures

    models = (opened, *others)
    pictures = example_pictures(opened)
    _write_program(
        path, Averaged(models), pictures[0], _any_size(),
        lambda run: check_same_pictures(models, run, pictures, "torch-export"),
    )  # fmt: skip


def write_torch_export_of_logits(opened: OpenedModel, path: Path) -> None:
    """A program of torch.export from images [N, C, S, S] to logits [N, K], for any N."""
    import torch

    example, batch = example_images(opened, TRACED), {0: torch.export.Dim("batch")}
    _write_program(path, opened.module, example, batch, lambda run: check_same(opened, run, "torch-export"))


def _write_program(
    path: Path,
    module: nn.Module,
    example: Tensor,
    free: dict[int, Any],
    check: Callable[[Callable[[Tensor], Tensor]], None],
) -> None:
    import torch

    from graft.system.files import atomic_path

    with torch.no_grad():
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=(free,))
    with atomic_path(path) as temporary:
        named = temporary.with_name(f"{temporary.name}.pt2")  # torch.export complains of other names
        try:
            torch.export.save(program, named)
            check(torch.export.load(named).module())
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
