"""Packed data: the same samples as the folder's, in an order that streams; what was altered or torn is named."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kits_data import write_tree

from nasseg.data.dataset import DataSet, Split
from nasseg.data.layouts import open_data
from nasseg.data.loader import eval_batches, forget_cached, train_batches
from nasseg.data.manifest import ROW_SCHEMA, Manifest, Shelf, row_checksum
from nasseg.data.pack import pack
from nasseg.data.shards import ShardSplit
from nasseg.data.transforms import EvalTransform, TrainTransform
from nasseg.errors import DataError
from nasseg.files import digest

NORM = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
TRAIN = TrainTransform((16, 16), **NORM)
TRAINED = {"train": tuple(f"t_{number:02d}" for number in range(23)), "val": ("v_1", "v_2", "v_3")}


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    forget_cached()
    yield
    forget_cached()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("folder") / "set", splits=TRAINED)


@pytest.fixture(scope="module")
def packed_once(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "set"
    pack(open_data(str(original)), out, rows_per_group=3)
    return out


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(packed_once, tmp_path / "copy"))


def opened(place: Path | str, query: str = "") -> DataSet:
    return open_data(f"shards:{place}{query}")


def same_samples(first: Split, second: Split) -> None:
    assert first.ids == second.ids
    for index in range(len(first)):
        for a, b in zip(first[index], second[index], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype == np.uint8
            assert b.flags.writeable


def collect(split: Split, **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(train_batches(split, TRAIN, **{"batch_size": 4, "iterations": 9, "seed": 3, **options}))


def assert_same(first, second) -> None:
    assert len(first) == len(second)
    for (x, y), (p, q) in zip(first, second, strict=True):
        assert torch.equal(x, p)
        assert torch.equal(y, q)


def test_samples_are_the_folders(original: Path, packed_once: Path) -> None:
    folder, shards = open_data(str(original)), opened(packed_once)
    assert list(shards.splits) == ["train", "val"]
    for name in folder.splits:
        same_samples(folder.splits[name], shards.splits[name])
        assert shards.splits[name].encoded(1) == folder.splits[name].encoded(1)
    assert (shards.classes, shards.palette, shards.name) == (folder.classes, folder.palette, "set")
    assert shards.classes_from == "manifest.json"
    assert shards.spec == f"shards:{packed_once}"
    assert opened(packed_once, "?buffer=7").spec == f"shards:{packed_once}?buffer=7"
    assert opened(packed_once).spec == open_data(str(packed_once)).spec  # the folder alone says what it is
    shards.probe()


def test_mapped_labels_are_packed(original: Path, tmp_path: Path) -> None:
    folder = open_data(f"{original}?relabel=reduce_zero&holdout=t_1*")
    manifest, _ = pack(folder, tmp_path / "out")
    shards = opened(tmp_path / "out")
    assert list(shards.splits) == ["train", "val", "holdout"]
    for name in folder.splits:
        same_samples(folder.splits[name], shards.splits[name])
    assert set(np.unique(shards.splits["val"][0].mask)) == {0, 1, 255}
    assert manifest.fingerprint == shards.fingerprint
    assert shards.original_labels == folder.original_labels == (1, 2)


def test_jpegs_stay_jpegs(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set", suffix=".jpg")
    pack(open_data(str(root)), tmp_path / "out")
    train = opened(tmp_path / "out").splits["train"]
    assert train.encoded(0) == (root / "train/images/a_1.jpg").read_bytes()
    same_samples(open_data(str(root)).splits["train"], train)


def test_built_in_scenes_can_be_packed(tmp_path: Path) -> None:
    scenes = open_data("synthetic:streets?train=3&val=2&size=32x48")
    pack(scenes, tmp_path / "out")
    for name, split in opened(tmp_path / "out").splits.items():
        same_samples(scenes.splits[name], split)


def test_holdout(packed_once: Path) -> None:
    shards = opened(packed_once, "?holdout=t_0*")
    assert shards.splits["holdout"].ids == tuple(f"t_{number:02d}" for number in range(10))
    assert shards.splits["train"].ids == tuple(f"t_{number:02d}" for number in range(10, 23))
    assert sorted(shards.splits["train"].order(0, 0)) == list(range(13))
    assert shards.fingerprint != opened(packed_once).fingerprint
    assert open_data(shards.spec).fingerprint == shards.fingerprint


class OrderOf:
    def __init__(self, split: Split) -> None:
        self.split = split

    def order(self, seed: int, number: int) -> np.ndarray:
        return self.split.order(seed, number)


def test_training_batches_are_the_folders(original: Path, packed_once: Path) -> None:
    folder, shards = open_data(str(original)).splits["train"], opened(packed_once).splits["train"]
    assert_same(collect(folder), collect(shards, sampler=OrderOf(folder)))
    assert_same(collect(shards), collect(folder, sampler=OrderOf(shards)))


def test_evaluation_batches_are_the_folders(original: Path, packed_once: Path) -> None:
    transform = EvalTransform((16, 16), **NORM)
    first, second = (list(eval_batches(data.splits["val"], transform, 2)) for data in (open_data(str(original)), opened(packed_once)))
    for (x, masks, ids), (p, others, names) in zip(first, second, strict=True):
        assert torch.equal(x, p)
        assert ids == names
        for a, b in zip(masks, others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_order_shuffles_windows_of_row_groups(packed_once: Path) -> None:
    split = opened(packed_once, "?buffer=6").splits["train"]
    passes = [split.order(5, number) for number in range(4)]
    for order in passes:
        assert sorted(order) == list(range(23))
        groups = order // 3  # of three rows each, the last of two
        for start in range(0, 18, 6):
            inside = groups[start : start + 6]
            if 7 not in groups[: start + 6]:
                assert len(set(inside)) == 2
    assert len({tuple(order) for order in passes}) == 4
    assert split.order(5, 2).tolist() == passes[2].tolist()
    assert split.order(6, 2).tolist() != passes[2].tolist()


def test_a_window_of_everything_mixes_everything(packed_once: Path) -> None:
    split = opened(packed_once, "?buffer=1000").splits["train"]
    first = [tuple(split.order(0, number)[:3] // 3) for number in range(8)]
    assert any(len(set(groups)) == 3 for groups in first)
    narrow = opened(packed_once, "?buffer=1").splits["train"].order(0, 0)
    changes = np.count_nonzero(np.diff(narrow // 3))
    assert changes == 7  # eight groups, one after another


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_ranks_and_resumes_change_nothing(packed_once: Path, workers: int) -> None:
    split = opened(packed_once, "?buffer=6").splits["train"]
    whole = collect(split)
    assert_same(whole[5:], collect(opened(packed_once, "?buffer=6").splits["train"], start=5, workers=workers))
    parts = [collect(split, batch_size=2, rank=rank, ranks=2, workers=workers) for rank in (0, 1)]
    assert_same(whole, [(torch.cat([x, p]), torch.cat([y, q])) for (x, y), (p, q) in zip(*parts, strict=True)])
    assert_same(whole, collect(split, cache=True, workers=workers))


def test_splits_cross_processes_without_their_memory(packed_once: Path) -> None:
    split = opened(packed_once).splits["train"]
    sample = split[20]
    text = pickle.dumps(split)
    again = pickle.loads(text)
    np.testing.assert_array_equal(again[20].image, sample.image)
    assert again.key == split.key
    assert split.encoded(20) not in text


def test_no_file_stays_open(packed_once: Path) -> None:
    split = opened(packed_once).splits["train"]
    assert len(list(split)) == 23
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        assert not [link for link in descriptors.iterdir() if link.exists() and link.resolve().is_relative_to(packed_once)]


def test_memory_holds_one_window(packed_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = opened(packed_once, "?buffer=6").splits["train"]
    assert isinstance(split, ShardSplit)
    reads: list[int] = []
    read = split.source._read
    monkeypatch.setattr(split.source, "_read", lambda group: reads.append(group) or read(group))
    for index in split.order(5, 0):
        split[int(index)]
    assert len(reads) == len(set(reads)) == 8  # each row group once a pass
    assert sum(map(len, split.source._groups.values())) <= 9


def test_spread_reads_few_groups(packed_once: Path) -> None:
    split = opened(packed_once).splits["train"]
    assert list(split.spread(7)) == [0, 1, 2, 21, 22]
    assert list(split.spread(500)) == list(range(23))


def test_key_follows_content_and_window(packed_once: Path, packed: Path) -> None:
    key = opened(packed_once).splits["train"].key
    assert opened(packed).splits["train"].key == key  # another place
    assert opened(packed, "?buffer=7").splits["train"].key != key
    assert opened(packed).splits["val"].key != key
    assert opened(packed).splits["train"].subset([1], "train").key != key


@pytest.fixture
def memory(packed_once: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for file in packed_once.iterdir():
        system.pipe_file(f"/bucket/set/{file.name}", file.read_bytes())
    yield "memory://bucket/set"
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_behind_a_url(memory: str, packed_once: Path, workers: int) -> None:
    data = opened(memory, "?buffer=6")
    assert data.spec == "shards:memory://bucket/set?buffer=6"
    same_samples(opened(packed_once).splits["val"], data.splits["val"])
    assert_same(collect(opened(packed_once, "?buffer=6").splits["train"]), collect(data.splits["train"], workers=workers))


def test_behind_a_file_url(packed_once: Path) -> None:
    same_samples(opened(packed_once).splits["val"], opened(f"file://{packed_once}/").splits["val"])


def test_addresses_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/none/manifest.json: no such file; packed data begin with it: give the folder"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match=r"memory://none/manifest\.json: no such file"):
        opened("memory://none")
    with pytest.raises(DataError, match=r"nosuch://a/manifest\.json: cannot be opened \(Protocol not known: nosuch\)"):
        opened("nosuch://a")
    with pytest.raises(DataError, match="buffer is a whole number from 1 to 1000000, '0' given"):
        opened(tmp_path, "?buffer=0")


def test_a_protocol_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match=r"^s3://b/c/manifest\.json: cannot be opened \(Install s3fs to access S3\)$"):
        opened("s3://b/c")


def test_a_connection_that_breaks(packed_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise TimeoutError("timed out")

        def readinto(self, buffer: object) -> int:
            raise TimeoutError("timed out")

    split = opened(packed_once).splits["train"]
    monkeypatch.setattr(Shelf, "open", lambda self, name: Broken(bytes(split.source.files[0].bytes)))
    with pytest.raises(DataError, match=r"train-00000\.parquet: row 0 \(id t_00\): row group 0 cannot be read, .* \(timed out\)"):
        split[0]
    with pytest.raises(DataError, match=rf"{packed_once}/a: cannot be read \(timed out\)"):
        split.source.shelf.read("a")
    with pytest.raises(DataError, match=rf"{packed_once}/a: cannot be read \(timed out\)"):
        split.source.shelf.sha256("a")


def test_threads_share_a_split(packed_once: Path) -> None:
    split = opened(packed_once, "?buffer=1").splits["train"]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda index: split[index % 23].image, range(92)))
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, images[index % 23])


def test_gone_shard(packed: Path) -> None:
    (packed / "train-00000.parquet").unlink()
    data = opened(packed)
    data.splits["val"][0]
    with pytest.raises(DataError, match=rf"{packed}/train-00000\.parquet: no such file"):
        data.splits["train"][0]


def test_torn_shard(packed: Path) -> None:
    file = packed / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    sentence = (
        rf"{file}: row 4 \(id t_04\): row group 1 cannot be read, the file is torn or altered \(it has \d+ bytes, the manifest says \d+\)"
    )
    with pytest.raises(DataError, match=sentence):
        opened(packed).splits["train"][4]
    for workers in (0, 1):
        with pytest.raises(DataError, match=rf"{file}: row \d+ \(id t_\d\d\): row group \d cannot be read"):
            collect(opened(packed).splits["train"], workers=workers)


def spoil(file: Path, content: bytes) -> None:
    """Turn one bit in the middle of some content of a file."""
    data = bytearray(file.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("row", [0, 22])
def test_one_bit_of_an_image(packed: Path, row: int) -> None:
    train = opened(packed).splits["train"]
    spoil(packed / "train-00000.parquet", train.encoded(row))
    fresh = opened(packed).splits["train"]
    with pytest.raises(DataError, match=rf"train-00000\.parquet: row {row} \(id t_{row:02d}\): image and mask do not give the checksum"):
        fresh[row]
    fresh[(row + 1) % 22]  # its neighbour is whole


def test_garbage_in_the_middle_and_at_the_end(packed: Path) -> None:
    file = packed / "train-00000.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-60] + bytes(60))
    with pytest.raises(DataError, match=r"row 0 \(id t_00\): row group 0 cannot be read, the file is torn or altered"):
        opened(packed).splits["train"][0]
    start = whole.index(b"\x89PNG") - 60  # page headers
    file.write_bytes(whole[:start] + bytes([255] * 60) + whole[start + 60 :])
    with pytest.raises(DataError, match=r"row 0 \(id t_00\): (row group 0 cannot be read|the row holds id)"):
        opened(packed).splits["train"][0]


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table], folder: Path) -> None:
    """Write a shard anew, and a manifest that knows its size."""
    groups = [pq.ParquetFile(file).metadata.row_group(number).num_rows for number in range(pq.ParquetFile(file).num_row_groups)]
    pq.write_table(change(pq.read_table(file)), file, compression="none", use_dictionary=False, row_group_size=groups[0])
    amend(folder, lambda raw: raw["splits"]["train"]["files"][0].update(bytes=file.stat().st_size))


def amend(folder: Path, change: Callable[[dict], object]) -> None:
    """Alter the manifest and its checksum."""
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    body = {key: value for key, value in raw.items() if key != "checksum"}
    (folder / "manifest.json").write_text(json.dumps({**body, "checksum": digest(body, 64)}))


def test_rows_in_another_order(packed: Path) -> None:
    rewrite(packed / "train-00000.parquet", lambda table: table.take([1, 0, *range(2, 23)]), packed)
    with pytest.raises(DataError, match=r"row 0 \(id t_00\): the row holds id 't_01', the index says otherwise"):
        opened(packed).splits["train"][0]


def test_other_row_groups(packed: Path) -> None:
    rewrite(packed / "train-00000.parquet", lambda table: table.slice(0, 22), packed)
    with pytest.raises(DataError, match=r"row 21 .*it has 1 rows, the manifest says 2"):
        opened(packed).splits["train"][21]


def test_other_columns(packed: Path) -> None:
    rewrite(packed / "train-00000.parquet", lambda table: table.drop_columns(["sha256"]), packed)
    with pytest.raises(DataError, match="its columns are id, split, height, width, image, mask, not those of packed data"):
        opened(packed).splits["train"][0]


def test_a_row_that_agrees_with_itself_alone(packed: Path) -> None:
    def exchange(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[5]["image"] = rows[6]["image"]
        rows[5]["sha256"] = row_checksum(rows[5]["id"], rows[5]["image"], rows[5]["mask"])
        return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)

    rewrite(packed / "train-00000.parquet", exchange, packed)
    with pytest.raises(DataError, match=r"row 5 \(id t_05\): image and mask do not give the checksum"):
        opened(packed).splits["train"][5]


def test_altered_index(packed: Path) -> None:
    spoil(packed / "index.parquet", (packed / "index.parquet").read_bytes())
    with pytest.raises(DataError, match=rf"{packed}/index\.parquet: does not give the checksum \(sha256\) of the manifest"):
        opened(packed)


def test_index_of_another_set(packed: Path) -> None:
    amend(packed, lambda raw: raw.update(fingerprint="0" * 12))
    with pytest.raises(DataError, match=r"index\.parquet: its rows give fingerprint \w+, the manifest says 000000000000"):
        opened(packed)
    amend(packed, lambda raw: raw["splits"].update(val={"rows": 0, "files": []}))
    with pytest.raises(DataError, match="lists 3 rows of val, the manifest 0"):
        opened(packed)


def test_altered_manifest(packed: Path) -> None:
    file = packed / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace('"class_1"', '"class_7"'))
    with pytest.raises(DataError, match=f"{file}: does not give its own checksum, it was altered after it was written"):
        opened(packed)
    file.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=f"{file}: not readable as JSON, the file is torn"):
        opened(packed)
    file.write_text('{"classes": ["a", "b"]}')
    with pytest.raises(DataError, match=f"{file}: is no manifest of packed data"):
        opened(packed)
    file.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match=f"{file}: format version 2, this nasseg reads version 1; pack the data again"):
        opened(packed)
    file.write_text(text)
    amend(packed, lambda raw: raw["index"].update(file="../index.parquet"))
    with pytest.raises(DataError, match="does not give its own checksum"):
        opened(packed)


def test_manifest_comes_back(packed: Path) -> None:
    manifest = Shelf(str(packed)).manifest()
    assert Manifest.from_text(manifest.to_text().encode(), "") == manifest
    assert [file.rows for file in manifest.splits["train"]] == [23]
    assert manifest.splits["train"][0].row_groups == (3,) * 7 + (2,)
