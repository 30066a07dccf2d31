"""What a part's labels leave averaged figures nothing to compute of: by figure, and in words."""

import numpy as np
import pytest

from graft.config.choices import TaskKind
from graft.results.left_out import in_words, left_out, undefined
from graft.results.resampling import figures

ONE, MANY, NUMBERS = TaskKind.single_label, TaskKind.multi_label, TaskKind.regression
ABC = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("task", "truth", "out", "words"),
    [
        (ONE, [0, 1, 2, 0], {}, []),
        (ONE, [0, 1, 1], {"f1": ["c"], "auroc": ["c"]}, ["val has no image of c: left out of macro-F1, AUROC"]),
        (
            ONE,
            [1, 1],
            {"f1": ["a", "c"], "auroc": ABC},
            [
                "val has no image of a, c: left out of macro-F1, AUROC",
                "val has no image that is not of b: left out of AUROC",
            ],
        ),
        (ONE, [], {}, []),
        (
            MANY,
            [[1, 0, 0], [1, 1, 0]],
            {"map": ["a", "c"], "f1": ["c"], "auroc": ["a", "c"]},
            [
                "val has no image with c: left out of mAP, macro-F1, AUROC",
                "val has no image without a: left out of mAP, AUROC",
            ],
        ),
        (
            MANY,
            [[0, 0, 0]],
            {"map": ABC, "f1": ABC, "f1_micro": ABC, "auroc": ABC},
            ["val has no image with a, b, c: left out of mAP, macro-F1, micro-F1, AUROC"],
        ),
        (NUMBERS, [[0.1, 5, 1], [0.1, 6, 2]], {"r2": ["a"]}, ["a does not vary in val: left out of R²"]),
    ],
)  # fmt: skip
def test_what_is_left_out(task, truth, out, words):
    found = left_out("val", np.array(truth, dtype=np.int64 if task is ONE else np.float64), ABC, task)
    assert found == {f"val/{name}": names for name, names in out.items()}
    assert in_words(found, task) == words


def test_only_some_of_many_names_are_shown():
    found = left_out("test", np.array([0, 1]), [f"c{k}" for k in range(10)], ONE)
    assert in_words(found, ONE)[0].startswith("test has no image of c2, c3, c4, c5, c6, c7 and 2 more: left out of")


@pytest.mark.parametrize("task", list(TaskKind))
def test_undefined_is_what_cannot_be_computed(task):
    """Of every small part: the figures that leave out everything are those that come out as NaN."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        images = int(generator.integers(1, 4))
        truth = generator.integers(0, 2, images if task is ONE else (images, 3)).astype(np.int64)
        answers = generator.dirichlet(np.ones(3), images)
        found = figures(answers, truth if task is ONE else truth.astype(np.float64), task)
        nan = [f"val/{name}" for name, value in found.items() if np.isnan(value)]
        assert undefined("val", truth, ABC, task) == nan
