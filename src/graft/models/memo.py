"""What a pass has shown of a network's structure, kept for this process's next run of the same network.

Such a pass takes hundreds of small calls of Python's; the trials of a sweep would ask the same again and again.
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
    """What `find` says, asked once for a network of that structure.

    Args:
        find: a function of the network's structure, of the question and of what it is about, and of nothing else. An
            error of its is not kept.
        of: values whose `repr` tells them apart.
    """
    tensors = [(name, tuple(tensor.shape)) for name, tensor in network.module.state_dict().items()]
    about = [question, network.build, network.head, tensors, [repr(each) for each in of]]
    key = json.dumps(about, sort_keys=True, default=repr)
    if key not in _answers:
        if len(_answers) >= _MOST:
            _answers.clear()
        _answers[key] = find()
    return _answers[key]
