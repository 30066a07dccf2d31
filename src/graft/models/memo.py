"""Remembers what a pass has shown of a network's structure, for this process's next run with the same network.

Such a pass makes hundreds of small Python calls, and the trials of a sweep would repeat it again and again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from graft.models.network import Network

_MOST = 64
_answers: dict[str, Any] = {}
Answer = TypeVar("Answer")


def once_for(network: Network, find: Callable[[], Answer], question: str, *of: object) -> Answer:
    """The result of `find`, computed once for a network with this structure.

    Args:
        find: a function that depends only on the network's structure, the question and `of`. Its errors are not
            remembered.
        of: values that are identified by their `repr`.
    """
    tensors = [(name, tuple(tensor.shape)) for name, tensor in network.module.state_dict().items()]
    about = [question, network.build, network.head, tensors, [repr(each) for each in of]]
    return once(json.dumps(about, sort_keys=True, default=repr), find)


def once(key: str, find: Callable[[], Answer]) -> Answer:
    """The result of `find`, computed once for a key. Whoever changes the result copies it first."""
    if key not in _answers:
        if len(_answers) >= _MOST:
            _answers.clear()
        _answers[key] = find()
    return _answers[key]
