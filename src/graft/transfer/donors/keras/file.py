"""A Keras file as a donor: finds its layers, determines their kinds, and converts their tensors as they are read."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from graft.config.faults import nearest
from graft.config.keras_donor import BGR_MEAN, BGR_STD
from graft.config.patterns import instead_of_glob
from graft.config.schema import ApplicationConfig, KerasConfig, PreprocessConfig
from graft.transfer.donor import Donor
from graft.transfer.donors import archive
from graft.transfer.donors.keras.activations import Unknown
from graft.transfer.donors.keras.cautions import Finding, findings_of
from graft.transfer.donors.keras.conversion import Conversion
from graft.transfer.donors.keras.families import Caution, Family, family_of
from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.hdf5 import Hdf5
from graft.transfer.donors.keras.kinds import is_normalization
from graft.transfer.donors.keras.layers import Kind
from graft.transfer.donors.keras.model_config import graph_of
from graft.transfer.donors.keras.preparation import Preparation, of_tensors, preparation_of, resized
from graft.transfer.donors.keras.trunk import KerasTrunk, trunk_of
from graft.transfer.donors.keras.variables import FileLayer, layers_of_file
from graft.transfer.donors.sniff import DAMAGE, first_line, refused
from graft.transfer.habits import Doubt

WHAT = "a Keras file (.keras, .weights.h5 or legacy .h5)"
_MODELS = 32  # nested ones whose names may come off; more are looked at as they are


def open_keras(
    path: Path, options: KerasConfig, application: ApplicationConfig | None = None, *, image_size: int | None = None
) -> Donor:
    """Opens a Keras file.

    Whatever its weights may compute differently in torch, and whatever cannot be converted with certainty, becomes a
    doubt of the donor. Doubts prevent a transfer, but not inspection.

    Args:
        options: information that the file lacks, and the accepted hidden differences.
        application: how the receiving network differs from Keras' own, and how it does not.
        image_size: side of the network's images; None: the size that the file's model was built for.

    Raises:
        InputError: the file is damaged or has an unknown layout, or an option does not fit it.
    """
    file, config, version = _open(path)
    try:
        graph = _graph(path, config, version)
        return _donor(path, file, graph, options, application or ApplicationConfig(), image_size)
    except BaseException:
        file.close()
        raise


def _open(path: Path) -> tuple[Hdf5, str | None, str | None]:
    """The file of weights, and the model's config as text and the version of Keras if available."""
    if not zipfile.is_zipfile(path):
        file = Hdf5(path)
        return file, file.text("", "model_config"), file.text("", "keras_version")
    members = {entry.filename: entry for entry in archive.entries(path, WHAT)}
    try:
        with zipfile.ZipFile(path) as opened:
            content = opened.read(members["model.weights.h5"])
            config = opened.read(members["config.json"]).decode("utf-8") if "config.json" in members else None
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a damaged archive ({first_line(error)})") from error
    return Hdf5(path, content), config, None


def _donor(
    path: Path,
    file: Hdf5,
    graph: Graph | None,
    options: KerasConfig,
    application: ApplicationConfig,
    image_size: int | None,
) -> Donor:
    try:
        file_layers, remarks = layers_of_file(file)
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a list of weights that misleads ({first_line(error)})") from error
    if not file_layers:
        raise refused(path, expected=WHAT, received="an HDF5 file that Keras did not write", remedy="model.save(…)")
    file_layers = _in_order(_named_as_configured(file_layers, graph), graph)
    _check_options(path, file_layers, options)
    family = family_of({layer.layer: file.datasets[layer.datasets[0]].shape for layer in file_layers})
    conversion = Conversion(file, file_layers, graph, options, application, family)
    preparation = _preparation(graph, file_layers, conversion, family)
    turned = (preparation is not None and preparation.turned) != (options.input == "bgr")
    if turned:
        conversion.turn_first_round()
    prepared = preparation.layers if preparation is not None else ()
    conversion.remark(prepared)
    findings = findings_of(
        graph, family, image_size=image_size, prepared=prepared, with_weights=[layer.layer for layer in file_layers]
    )
    if preparation is not None or options.input == "bgr":
        findings = [finding for finding in findings if finding.caution is not Caution.bgr]
    return Donor(
        source=str(path),
        format="keras",
        infos=conversion.infos,
        reader=conversion.read,
        remarks=[*remarks, *_idle(findings, options), *_of_images(graph, preparation, options), *conversion.remarks],
        closer=file.close,
        folds_epsilon=True,
        doubts=_doubts(findings, conversion.faults, options, application),
        wrappers=[f"{name}." for name in _models(graph, file_layers)],
        excuses={name: _PREPARED for layer in prepared for name in conversion.layers.get(layer, ())},
        head=[name for layer in _head(graph, file_layers, conversion) for name in conversion.layers.get(layer, ())],
        preprocess=_preprocess(preparation, options),
        own_trunk=None
        if graph is None
        else partial(_own_trunk, graph, conversion, path, preparation, options.input == "bgr"),
    )


_PREPARED = "it prepares the images, which mean and std of the preprocessing do here"
_CERTAINTY = "layers whose conversion is certain"
_CERTAIN = "the options that are named, or the model saved whole as .keras, which holds its config"


def _own_trunk(
    graph: Graph, conversion: Conversion, path: Path, preparation: Preparation | None, bgr: bool, used: Collection[str]
) -> KerasTrunk:
    try:
        return trunk_of(graph, conversion.variables, conversion.layers, used, preparation, bgr=bgr)
    except Unknown as error:
        raise refused(
            path, expected="a model that graft can compute", received=str(error), remedy="donor.verify=false"
        ) from error


def _preparation(
    graph: Graph | None, file_layers: Sequence[FileLayer], conversion: Conversion, family: Family | None
) -> Preparation | None:
    if graph is not None:
        return preparation_of(graph, conversion.variables)
    raw = [layer.layer for layer in file_layers if is_normalization(layer)]
    published = family is not None and family.name == "EfficientNet"
    return of_tensors(conversion.variables(raw[0]), published=published, layer=raw[0]) if len(raw) == 1 else None


def _of_images(graph: Graph | None, preparation: Preparation | None, options: KerasConfig) -> list[str]:
    remarks = resized(graph) if graph is not None else []
    if preparation is not None:
        return [preparation.remark, *remarks]
    if options.input == "bgr":
        mean, std = (", ".join(map(str, values)) for values in (BGR_MEAN, BGR_STD))
        remarks.append(
            "images are to be 0 to 255 less Keras' mean, as they are with "
            f"backbone.published.preprocess.mean=[{mean}] .std=[{std}]"
        )
    return remarks


def _preprocess(preparation: Preparation | None, options: KerasConfig) -> PreprocessConfig | None:
    """The preprocessing for RGB images. For a donor that was declared as BGR, the values have that order."""
    if preparation is None:
        return None
    step = -1 if options.input == "bgr" else 1
    return PreprocessConfig(mean=list(preparation.mean)[::step], std=list(preparation.std)[::step])


def _models(graph: Graph | None, file_layers: Sequence[FileLayer]) -> list[str]:
    """The names of nested models, those with the most layers first."""
    counted = Counter(name for layer in file_layers for name in layer.within)
    named = graph.models if graph is not None else list(counted)
    return sorted(dict.fromkeys(named), key=lambda name: -counted[name])[:_MODELS]


def _head(graph: Graph | None, file_layers: Sequence[FileLayer], conversion: Conversion) -> list[str]:
    """The layers after the trunk: by the graph, otherwise the dense layers outside the only nested model."""
    if graph is not None:
        return graph.head()
    outside = [layer.layer for layer in file_layers if not layer.within]
    inside = {layer.within[0] for layer in file_layers if layer.within}
    return outside if len(inside) == 1 and all(map(conversion.is_dense, outside)) else []


def _doubts(
    findings: Sequence[Finding], faults: Sequence[str], options: KerasConfig, application: ApplicationConfig
) -> list[Doubt]:
    """Differences that `application` does not list as settled, each marked if accepted, and whatever cannot be
    converted."""
    settled = {Caution(each) for each in application.settled}
    accepted = {Caution(each) for each in options.accept}
    doubts = [
        replace(finding.doubt(), accepted=finding.caution.value if finding.caution in accepted else "")
        for finding in findings
        if finding.caution not in settled
    ]
    return [*doubts, *(Doubt(reason=fault, remedy=_CERTAIN, expected=_CERTAINTY) for fault in faults)]


def _idle(findings: Sequence[Finding], options: KerasConfig) -> list[str]:
    words = {finding.caution.value for finding in findings}
    idle = [word for word in options.accept if word not in words]
    return [f"donor.keras.accept: {', '.join(idle)} had nothing to accept"] if idle else []


def _graph(path: Path, config: str | None, version: str | None) -> Graph | None:
    """The model's graph; None if there is no config, or if its class does not list layers."""
    if config is None:
        return None
    try:
        graph = graph_of(json.loads(config), version)
    except (*DAMAGE, RecursionError) as error:
        raise refused(
            path, expected=WHAT, received=f"a model config that cannot be read ({first_line(error)})"
        ) from error
    return graph if graph.layers else None


def _named_as_configured(file_layers: list[FileLayer], graph: Graph | None) -> list[FileLayer]:
    """Corrects names in files of earlier Keras 3, which name layers only by class and number, from the config."""
    if graph is None:
        return file_layers
    return [
        layer if layer.layer in graph.layers else replace(layer, layer=graph.automatic.get(layer.layer, layer.layer))
        for layer in file_layers
    ]


def _in_order(file_layers: list[FileLayer], graph: Graph | None) -> list[FileLayer]:
    order = {name: place for place, name in enumerate(graph.layers)} if graph is not None else {}
    return sorted(file_layers, key=lambda layer: order.get(layer.layer, len(order)))


def _check_options(path: Path, file_layers: Sequence[FileLayer], options: KerasConfig) -> None:
    names = [layer.layer for layer in file_layers]
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
