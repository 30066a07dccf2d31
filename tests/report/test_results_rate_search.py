"""The rate that a range test found goes along with the run that goes on from another's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.config.faults import InputError
from graft.report.rate_search import FILE, PLOT, recorded_rate
from graft.system.files import write_json


def test_a_run_takes_the_rate_and_its_files_from_the_one_that_it_goes_on_with(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    checkpoint = before / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    after.mkdir()
    with pytest.raises(
        InputError, match=rf"expected {before / FILE}, where the run to resume .* received no such file"
    ):
        recorded_rate(checkpoint, after)
    write_json(before / FILE, {"suggestion": 0.03})
    (before / PLOT).write_bytes(b"a picture")
    assert recorded_rate(checkpoint, after) == 0.03
    assert [(after / name).read_bytes() for name in (FILE, PLOT)] == [
        (before / name).read_bytes() for name in (FILE, PLOT)
    ]
    assert recorded_rate(checkpoint, before) == 0.03
    write_json(before / FILE, {"rates": []})
    with pytest.raises(InputError, match="expected the learning rate under `suggestion`, received None"):
        recorded_rate(checkpoint, after)
