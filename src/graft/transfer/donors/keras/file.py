"""A Keras file as a donor: its layers found, their kinds known or asked for, their tensors turned as they are read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from graft.config.faults import nearest
from graft.config.patterns import instead_of_glob
from graft.config.schema import ApplicationConfig, KerasConfig
from graft.transfer.donor import Donor
from graft.transfer.donors import archive
from graft.transfer.donors.keras.cautions import Caution, cautions_of, remedy_of
from graft.transfer.donors.keras.conversion import Conversion
from graft.transfer.donors.keras.graph import Graph, graph_of
from graft.transfer.donors.keras.hdf5 import Hdf5
from graft.transfer.donors.keras.layers import Kind
from graft.transfer.donors.keras.variables import Held, held_variables
from graft.transfer.donors.refusal import DAMAGE, first_line, refused

WHAT = "a Keras file (.keras, .weights.h5 or legacy .h5)"


def open_keras(path: Path, options: KerasConfig, application: ApplicationConfig | None = None) -> Donor:
    """Opens a Keras file.

    Args:
        options: What the file does not say, and which hidden differences are accepted.
        application: How the network that receives differs from Keras' own, and how it does not.

    Raises:
        InputError: It is damaged, of an unknown layout, ambiguous, or would compute something else in torch.
    """
    file, config = _open(path)
    try:
        return _donor(path, file, config, options, application or ApplicationConfig())
    except BaseException:
        file.close()
        raise


def _open(path: Path) -> tuple[Hdf5, str | None]:
    """The file of weights and the model's config as text, where there is one."""
    if not zipfile.is_zipfile(path):
        file = Hdf5(path)
        return file, file.text("", "model_config")
    found = {entry.filename: entry for entry in archive.entries(path, WHAT)}
    try:
        with zipfile.ZipFile(path) as opened:
            content = opened.read(found["model.weights.h5"])
            config = opened.read(found["config.json"]).decode("utf-8") if "config.json" in found else None
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a damaged archive ({first_line(error)})") from error
    return Hdf5(path, content), config


def _donor(path: Path, file: Hdf5, config: str | None, options: KerasConfig, application: ApplicationConfig) -> Donor:
    graph = _graph(path, config)
    try:
        held, remarks = held_variables(file)
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a list of weights that misleads ({first_line(error)})") from error
    if not held:
        raise refused(path, expected=WHAT, received="an HDF5 file that Keras did not write", remedy="model.save(…)")
    held = _in_order(_named_as_configured(held, graph), graph)
    _check_options(path, held, options)
    remarks += _weigh(path, graph, held, options, application)
    plan = Conversion(file, held, graph, options, application)
    if plan.faults:
        raise refused(
            path,
            expected="layers whose conversion is certain",
            received="; ".join(plan.faults[:5]) + (f"; and {len(plan.faults) - 5} more" if plan.faults[5:] else ""),
            remedy="the options that are named, or the model saved whole as .keras, which holds its config",
        )
    return Donor(
        source=str(path),
        format="keras",
        infos=plan.infos,
        reader=plan.read,
        remarks=[*remarks, *plan.remarks],
        closer=file.close,
        folds_epsilon=True,
    )


def _graph(path: Path, config: str | None) -> Graph | None:
    """The model's graph; None where there is no config, or one of a class that lists no layers."""
    if config is None:
        return None
    try:
        graph = graph_of(json.loads(config))
    except (*DAMAGE, RecursionError) as error:
        raise refused(
            path, expected=WHAT, received=f"a model config that cannot be read ({first_line(error)})"
        ) from error
    return graph if graph.layers else None


def _named_as_configured(held: list[Held], graph: Graph | None) -> list[Held]:
    """Files of earlier Keras 3 name layers by class and number alone; the config says which layer that is."""
    if graph is None:
        return held
    return [
        layer if layer.layer in graph.layers else replace(layer, layer=graph.automatic.get(layer.layer, layer.layer))
        for layer in held
    ]


def _in_order(held: list[Held], graph: Graph | None) -> list[Held]:
    order = {name: place for place, name in enumerate(graph.layers)} if graph is not None else {}
    return sorted(held, key=lambda layer: order.get(layer.layer, len(order)))


def _check_options(path: Path, held: Sequence[Held], options: KerasConfig) -> None:
    names = [layer.layer for layer in held]
    for option, globs in (("layers", options.layers), ("flatten", options.flatten), ("absent", options.absent)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in names):
                near = ", ".join(nearest(glob, names) or names[:3])
                raise refused(
                    path,
                    expected=f"donor.keras.{option} to name a layer with weights",
                    received=repr(glob),
                    remedy=instead_of_glob(glob, names) or near,
                )
    choices = (
        ("layers", options.layers.values(), Kind.__members__),
        ("absent", options.absent.values(), ("gamma", "beta")),
        ("input", [options.input], ("rgb", "bgr")),
        ("accept", options.accept, Caution.__members__),
    )
    for option, values, allowed in choices:
        for value in values:
            if value not in allowed:
                raise refused(
                    path,
                    expected=f"donor.keras.{option} among {', '.join(allowed)}",
                    received=repr(value),
                    remedy=", ".join(nearest(value, allowed) or list(allowed)[:1]),
                )


def _weigh(
    path: Path, graph: Graph | None, held: Sequence[Held], options: KerasConfig, application: ApplicationConfig
) -> list[str]:
    """Refuses hidden differences that nobody accepted; gives those that were, to be remarked."""
    names = graph.layers if graph is not None else [layer.layer for layer in held]
    found = cautions_of(graph, names)
    settled = {Caution(each) for each in application.settled}
    settled |= {Caution.bgr} if options.input == "bgr" else set[Caution]()
    accepted = {Caution(each) for each in options.accept}
    pressing = [caution for caution in found if caution not in accepted | settled]
    if pressing:
        raise refused(
            path,
            expected="weights that compute in torch what they compute in Keras",
            received="; ".join(found[caution] for caution in pressing),
            remedy="; ".join(remedy_of(caution) for caution in pressing),
        )
    idle = [caution.value for caution in accepted if caution not in found]
    return [
        *(f"accepted ({caution.value}): {found[caution]}" for caution in found if caution in accepted - settled),
        *([f"donor.keras.accept: {', '.join(idle)} had nothing to accept"] if idle else []),
    ]
