"""The libraries' models by name, with or without storage, and the metadata that the libraries provide about them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn

from graft.config.faults import InputError, nearest, one_line
from graft.config.schema import BackboneConfig, Library
from graft.models.own import construct_own
from graft.models.valueless import Valueless, replace_first_convolution

# torchvision builds these two with auxiliary classifiers and a slow initialisation unless told otherwise.
# Their published weights are run without either.
TORCHVISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
REFUSALS = (TypeError, AssertionError, ValueError, RuntimeError)
"""Exceptions of a constructor that checks its arguments."""
STUMBLES = (LookupError, ArithmeticError, AttributeError, OSError, ImportError)
"""Exceptions of a constructor that does not: a name that is in no table, a division by zero. Without arguments they are
not reported to the user."""
# How a torchvision constructor is told the image size, where the size decides the shape of a tensor.
TORCHVISION_SIZE = {"vit_": "image_size", "maxvit_": "input_size"}


@cache
def model_names(library: Library) -> list[str]:
    """All classification models that the library can build."""
    if library is Library.custom:
        return []
    if library is Library.torchvision:
        from torchvision import models

        return models.list_models(module=models)
    import timm

    return timm.list_models()


def check_name(library: Library, name: str) -> None:
    """Raises InputError with the nearest names if the library does not have this model (timm: a weights tag may
    follow)."""
    names = model_names(library)
    architecture, _, tag = name.partition(".") if library is Library.timm else (name, "", "")
    if architecture not in names:
        hint = nearest(architecture, names)
        other = Library.timm if library is Library.torchvision else Library.torchvision
        if name.partition(".")[0] in model_names(other):
            hint.insert(0, f"backbone={other.value} backbone.name={name}")
        remedy = f"; try {', '.join(hint)}" if hint else ""
        raise InputError(
            f"backbone.name: expected one of the {len(names)} models of {library.value}, received {name!r}{remedy}"
        )
    if tag:
        import timm

        tagged = timm.list_models(f"{architecture}.*", include_tags=True)
        if name not in tagged:
            hint = nearest(name, tagged) or tagged[:3]
            remedy = f"; try {', '.join([architecture, *hint])}"
            raise InputError(f"backbone.name: expected a set of weights of {architecture}, received {name!r}{remedy}")


def torchvision_weights(name: str, weights: str | None = None) -> Any:
    """A member of torchvision's weights enum (url, transforms, meta), by default its DEFAULT. Downloads nothing.

    Returns None if torchvision publishes no weights for this model.

    Raises:
        InputError: unknown model, or unknown `weights`.
    """
    from torchvision import models

    check_name(Library.torchvision, name)
    members = dict(models.get_model_weights(name).__members__)
    if weights is not None and weights not in members:
        raise InputError(
            f"backbone.published.weights: expected one of {', '.join(members) or 'none'} for {name}, "
            f"received {weights!r}"
        )
    return members.get(weights or "DEFAULT")


def timm_cfg(name: str, weights: str | None = None) -> Any:
    """timm's pretrained configuration (a PretrainedCfg: url, hf_hub_id, input_size, mean, …). Downloads nothing.

    Args:
        weights: tag of the weights, if `name` has none.

    Returns None if timm publishes nothing about this model.
    """
    import timm

    tagged = f"{name}.{weights}" if weights and "." not in name else name
    check_name(Library.timm, tagged)
    return timm.get_pretrained_cfg(tagged, allow_unregistered=True)


def size_kwargs(library: Library, name: str, image_size: int) -> dict[str, Any]:
    """Constructor arguments for the image size, for models whose tensors depend on it; otherwise empty.

    Raises:
        InputError: the constructor refuses the image size.
    """
    if library is Library.torchvision:
        for prefix, key in TORCHVISION_SIZE.items():
            if name.startswith(prefix):
                return {key: image_size if key == "image_size" else [image_size, image_size]}
        return {}
    if library is Library.custom:
        return {}
    cfg = timm_cfg(name)
    if cfg is None or tuple(cfg.input_size[1:]) == (image_size, image_size):
        return {}
    # timm publishes no list of the models that take img_size; those that do not refuse it by name.
    try:
        construct(library, name, {"img_size": image_size}, num_classes=2, device="meta", check=False)
    except TypeError as error:
        if "img_size" in str(error):
            return {}
        raise
    except (*REFUSALS, *STUMBLES) as error:
        raise _refused(library, name, {"img_size": image_size}, error) from error
    return {"img_size": image_size}


def construct(
    library: Library,
    name: str,
    kwargs: Mapping[str, Any],
    *,
    num_classes: int,
    channels: int = 3,
    device: str = "cpu",
    check: bool = True,
) -> nn.Module:
    """The library's own model with random weights and its own last layer for `num_classes` outputs.

    Args:
        kwargs: further arguments of the constructor.
        channels: channels of the images; other than 3 replaces the first convolution.
        device: "meta" builds names, shapes and dtypes without storage.
        check: turn an error of the constructor into an InputError; False: pass its own exception on.

    Raises:
        InputError: unknown name, or arguments that the constructor refuses.
    """
    if library is Library.custom:
        return construct_own(name, kwargs, num_classes=num_classes, channels=channels, device=device)
    check_name(library, name)
    try:
        if device != "meta":
            return _construct(library, name, kwargs, num_classes, channels).to(device)
        with Valueless():
            return _construct(library, name, kwargs, num_classes, channels).to("meta")
    except (*REFUSALS, *STUMBLES) as error:
        if not check or isinstance(error, InputError) or (isinstance(error, STUMBLES) and not kwargs):
            raise
        raise _refused(library, name, kwargs, error) from error


def _construct(library: Library, name: str, kwargs: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    if library is Library.torchvision:
        from torchvision import models

        arguments = {**TORCHVISION_DEFAULTS.get(name, {}), **kwargs}
        module = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
        if channels != 3:
            replace_first_convolution(module, channels)
        return module
    import timm

    if channels != 3:
        kwargs = {**kwargs, "in_chans": channels}
    return timm.create_model(name, pretrained=False, num_classes=num_classes, **kwargs)


def _refused(library: Library, name: str, kwargs: Mapping[str, Any], error: Exception) -> InputError:
    return InputError(
        f"backbone: expected arguments that {library.value}'s {name} takes, received {dict(kwargs)}:"
        f" {_reason(error)}; "
        "try another data.image_size or other backbone.kwargs"
    )


def _reason(error: Exception) -> str:
    """The text of an error; a KeyError's text is only the key."""
    return f"{type(error).__name__}: {one_line(error)}" if isinstance(error, STUMBLES) else one_line(error)


# What constructors call them; the first that one takes, and that changes something, is used.
ARGUMENTS: Mapping[Library, Mapping[str, tuple[str, ...]]] = {
    Library.timm: {"drop_path": ("drop_path_rate",), "drop_rate": ("drop_rate",)},
    Library.torchvision: {"drop_path": ("stochastic_depth_prob",), "drop_rate": ("dropout", "drop_rate")},
}
WORDS = {"drop_path": "stochastic depth", "drop_rate": "dropout"}


def drop_kwargs(backbone: BackboneConfig, kwargs: Mapping[str, Any]) -> dict[str, float]:
    """The constructor arguments for `drop_path` and `drop_rate`, if these are set.

    Args:
        kwargs: the constructor's other arguments.

    Raises:
        InputError: the constructor takes no such rate, or the rate has no effect.
    """
    rates: dict[str, float] = {}
    for key in WORDS:
        rate: float | None = getattr(backbone, key)
        if rate is not None:
            rates[_argument(backbone, key, kwargs)] = rate
    return rates


def _argument(backbone: BackboneConfig, key: str, kwargs: Mapping[str, Any]) -> str:
    arguments = ARGUMENTS[backbone.library][key]
    for argument in arguments:
        if argument in kwargs:
            raise InputError(
                f"backbone.{key}: expected one value, received another as backbone.kwargs.{argument}; leave one out"
            )
        if _has_effect(backbone, argument, kwargs):
            return argument
    raise InputError(
        f"backbone.{key}: expected a backbone whose constructor takes {' or '.join(arguments)}, received"
        f" {backbone.library.value}'s {backbone.name}, which has no {WORDS[key]} to set; try backbone.{key}=null"
    )


def _has_effect(backbone: BackboneConfig, argument: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether two rates give two different networks. A constructor that refuses the argument gives none."""
    try:
        low, high = (_numbers(backbone, {**kwargs, argument: rate}) for rate in (0.1, 0.3))
    except TypeError:
        return False
    return low != high


def _numbers(backbone: BackboneConfig, kwargs: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Every fractional number that a module of the network stores."""
    module: nn.Module = construct(backbone.library, backbone.name, kwargs, num_classes=2, device="meta", check=False)
    return {
        (path, name): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, float)
    }
