"""The index whose opening is timed is one that graft's own reader takes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import measure
from benchmarks.scale_case import KEY, _index
from graft.data.images import StoredImages
from graft.features.cache_folder import CacheFolder


def test_the_generated_index_is_read_as_images(tmp_path: Path) -> None:
    opened, memory = _index(1001, tmp_path / "cache")
    entry = CacheFolder(tmp_path / "cache", max_gb=1.0, say=print).open(KEY)
    assert entry is not None
    images = StoredImages(entry, range(1001), 3)
    assert len(images) == 1001
    assert images[1000].shape == (3, 1, 1)
    assert images.layout_N4[1000].tolist() == [1000, 1, 1, 1]
    assert 0 < measure(opened, repeats=1)["ours"]["values"][0] < 60
    assert measure(memory, repeats=1)["others"][0]["kept"]
