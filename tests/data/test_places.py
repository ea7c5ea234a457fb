"""Files and addresses that rows name: those of the data set alone, and nothing that never ends."""

import http.server
import os
import threading

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import load, pixels, png

from hf_mutual_kd import DataError
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.data.places import Places, cached


def naming(folder, path, rows=30):
    """A folder of Parquet files whose last rows name a path, all others hold their bytes."""
    cells = [{"bytes": png(1), "path": None}] * (rows - 1) + [{"bytes": None, "path": str(path)}]
    folder.mkdir(exist_ok=True)
    for name in ("train", "validation", "test"):
        pq.write_table(pa.table({"image": cells, "label": [0] * rows}), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def outside(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    return tmp_path / "secret.png"


@pytest.mark.parametrize("streaming", [False, True])
def test_files_outside_are_not_read(tmp_path, outside, streaming):
    """A data set of a stranger's puts a private picture into a Space and a report that are pushed."""
    for path in (outside, tmp_path / "d" / ".." / "secret.png", f"file://{outside}", "/nowhere/x.png"):
        place = naming(tmp_path / "d", path)
        with pytest.raises(DataError, match="train row 29: .* a file outside of the data set's folder; --files_from"):
            list(load(place, streaming=streaming).train)
    assert len(list(load(place, streaming=streaming, files_from=["/nowhere"]).train)) == 30
    place = naming(tmp_path / "e", outside)
    assert pixels(load(place, streaming=streaming, files_from=[str(tmp_path)]).test)[-1] == 9


def test_links_out_of_the_folder_lead_outside(tmp_path, outside):
    """A link in the folder is a path out of it."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match="outside of the data set's folder"):
        load(naming(tmp_path / "d", tmp_path / "d" / "link.png"))
    (tmp_path / "d" / "own.png").write_bytes(png(7))
    assert pixels(load(naming(tmp_path / "d", tmp_path / "d" / "own.png")).test)[-1] == 7


@pytest.mark.timeout(20)
def test_devices_and_pipes_are_refused(tmp_path):
    """`/dev/zero` fills the memory, a pipe that nobody writes to waits for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    for path in ("/dev/zero", tmp_path / "pipe.png", tmp_path):
        with pytest.raises(DataError, match="names no regular file"):
            decode_image({"bytes": None, "path": str(path)})
        with pytest.raises(DataError, match="names no regular file"):
            load(naming(tmp_path / "d", path), files_from=["anywhere"])


class Counting(http.server.BaseHTTPRequestHandler):
    """Says nothing but counts who asks."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png(5))

    do_HEAD = do_GET

    def log_message(self, *words):
        pass


def test_addresses_are_not_asked(tmp_path, monkeypatch):
    """A row can make the machine ask any server of its network, also where the user is offline."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/x.png"
    try:
        place = naming(tmp_path / "d", address)
        with pytest.raises(DataError, match="names an address outside of the data set"):
            load(place)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(DataError, match="offline mode is on"):
            load(place, files_from=["anywhere"])
        with pytest.raises(DataError, match="offline mode is on"):
            decode_image({"bytes": None, "path": address})
        assert not Counting.asked
    finally:
        server.shutdown()


def test_a_data_set_of_the_hub_names_its_own_files():
    """Streams of image folders on the Hub name their files by address."""
    places = cached("ada/pets")
    places.check("hf://datasets/ada/pets@main/cat/1.png")
    places.check("zip://cat/1.png::hf://datasets/ada/pets@main/data.zip")
    for other in (
        "hf://datasets/eve/pets@main/1.png",
        "hf://datasets/ada/pets2@main/1.png",
        "https://huggingface.co/x",
    ):
        with pytest.raises(DataError, match="outside of the data set"):
            places.check(other)
    Places(anywhere=True).check("https://huggingface.co/x")
