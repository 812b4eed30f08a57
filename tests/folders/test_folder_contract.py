"""What every folder can do, whatever it lies on: a disk, S3 (moto's server), Google Cloud Storage (an emulator)."""

import io
import itertools
import json
import os
import pickle
import tarfile
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy
from object_store import client, reached_by

from orl_ray.folders import CredentialsError, Folder, StorageRefusedError, StorageUnavailableError
from orl_ray.folders.gcs import _failure
from orl_ray.folders.s3 import _answer

NAMES = (
    "a",
    "ab",
    "a b/c d",
    "a.b/x",
    "a!",
    "ünï/日本語.jpg",
    "\uffee",  # before the next one as code points and in UTF-8, behind it in UTF-16
    "🦊",
    "é",
    "e\u0301",  # the same letter for people, another name
    "hash#1",
    "per%20cent%",
    "plus+plus",
    "question?x=1&y=2",
    "quotes'\"",
    "back\\slash",
    "deep/er/and/deeper/file",
    "~",
    "UPPER",
    "..dots",
)


def fill(folder, names):
    for name in names:
        folder.write(name, name.encode())


def contend(contenders, action):
    """Run ``action(number)`` on as many threads at once; return what each returned or raised."""
    results, barrier = [None] * contenders, threading.Barrier(contenders)

    def run(number):
        barrier.wait()
        try:
            results[number] = action(number)
        except Exception as error:  # noqa: BLE001 -- the caller looks at it
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_names_of_any_kind_come_back_as_they_were_given(folder):
    fill(folder, NAMES)
    for name in NAMES:
        assert folder.read(name) == name.encode()
        assert folder.exists(name)
    found = list(folder.files())
    assert [info.path for info in found] == sorted(NAMES), "not in code point order"
    assert [info.bytes for info in found] == [len(name.encode()) for name in sorted(NAMES)]
    assert folder.names() == {name.split("/")[0] for name in NAMES}
    for name in NAMES:
        folder.delete(name)
    assert list(folder.files()) == []


def test_name_that_begins_another_one_stays_apart(folder):
    fill(folder, ["ab/1", "ab/2", "abc"])
    assert not folder.exists("a")
    assert folder.names("a") == set()
    assert list(folder.files("a")) == []
    assert folder.names("ab") == {"1", "2"}
    assert [info.path for info in folder.files("ab")] == ["ab/1", "ab/2"]
    assert [info.path for info in (folder / "ab").files()] == ["1", "2"]
    folder.delete_folder("a")
    folder.delete_folder("ab")
    assert folder.names() == {"abc"}


def test_what_lies_outside_the_folder_is_not_seen(folder):
    beside = Folder(folder.uri + "-beside")
    beside.write("x", b"1")
    folder.write("y", b"2")
    assert [info.path for info in folder.files()] == ["y"]
    folder.delete_folder()
    assert beside.read("x") == b"1"


def test_write_replaces_the_whole_file_and_changes_its_stamp(folder):
    folder.write("x", b"a long first version")
    (before,) = folder.files()
    folder.write("x", memoryview(b"short"))
    (after,) = folder.files()
    assert folder.read("x") == b"short"
    assert after.bytes == 5
    assert after.stamp != before.stamp
    assert list(folder.files()) == [after], "the stamp of an untouched file changed"


def test_range_is_cut_at_the_end_of_the_file(folder):
    data = bytes(range(256))
    folder.write("x", data)
    for start, size in ((0, 10), (100, 56), (250, 100), (255, 1), (0, 256), (0, 9999), (7, 0)):
        assert folder.read_range("x", start, size) == data[start : start + size]
    assert folder.read_range("x", 256, 10) == b""
    assert folder.read_range("x", 9999, 10) == b""


def test_empty_file_is_a_file(folder):
    folder.write("empty", b"")
    assert folder.read("empty") == b""
    assert folder.read_range("empty", 0, 10) == b""
    assert folder.open("empty").read() == b""
    assert folder.exists("empty")
    assert [(info.path, info.bytes) for info in folder.files()] == [("empty", 0)]


def test_missing_files_and_folders(folder):
    for read in (folder.read, folder.open, lambda name: folder.read_range(name, 0, 1)):
        with pytest.raises(FileNotFoundError):
            read("missing/file")
    assert not folder.exists()
    assert not folder.exists("missing")
    assert folder.names() == set()
    assert folder.names("missing") == set()
    assert list(folder.files("missing")) == []
    folder.delete("missing/file")
    folder.delete_folder("missing")
    folder.delete_folder()
    folder.write("there/file", b"")
    assert folder.exists("there")
    with pytest.raises(FileNotFoundError):
        folder.read("there")  # a folder is no file


def test_create_succeeds_once(folder):
    folder.create("claim", b"first")
    with pytest.raises(FileExistsError):
        folder.create("claim", b"second")
    assert folder.read("claim") == b"first"
    folder.delete("claim")
    folder.create("claim", b"third")
    assert folder.read("claim") == b"third"


def test_one_of_many_contenders_creates_a_file(folder):
    for turn in range(4):
        results = contend(8, lambda number, turn=turn: folder.create(f"claim-{turn}", b"contender %d" % number))
        winners = [number for number, result in enumerate(results) if result is None]
        assert len(winners) == 1, results
        assert all(isinstance(result, FileExistsError) for result in results if result is not None), results
        assert folder.read(f"claim-{turn}") == b"contender %d" % winners[0]


def test_more_than_a_thousand_files_are_listed_in_order_page_by_page(folder, request):
    names = sorted(f"{number // 5:03d}/{'é' * (number % 3)}{number}" for number in range(1001))
    contend(6, lambda thread: fill(folder, names[thread::6]))
    if folder.is_local:
        assert [info.path for info in folder.files()] == names
    else:
        server = request.getfixturevalue(f"{folder.uri[:2]}_server")
        with FaultProxy(server.port) as proxy, reached_by(server.environment(proxy.port)):
            listing = folder.files()
            assert [info.path for info in itertools.islice(listing, 1000)] == names[:1000]
            assert pages_asked_for(proxy) == 1, "more was asked for than was wanted"
            assert [info.path for info in listing] == names[1000:]
            assert pages_asked_for(proxy) == 2
    assert folder.names() == {name.split("/")[0] for name in names}
    folder.delete_folder()
    assert list(folder.files()) == []


def pages_asked_for(proxy):
    return sum("list-type=2" in line or "/o?" in line for line in proxy.requests)


def test_parquet_and_tar_are_read_by_random_access(folder):
    table = pa.table({"id": range(1000), "value": np.random.default_rng(0).random((1000,))})
    parquet, tar = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=100)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number in range(5):
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"%03d" % number))
    folder.write("table.parquet", parquet.getvalue())
    folder.write("some.tar", tar.getvalue())

    with folder.open("table.parquet") as stream:
        file = pq.ParquetFile(stream)
        assert file.read_row_group(7, columns=["value"]).equals(table.slice(700, 100).select(["value"]))
    with folder.open("some.tar") as stream, tarfile.open(fileobj=stream) as archive:
        assert archive.extractfile("3.txt").read() == b"003"
        places = {member.name: member.offset_data for member in archive}
    assert folder.read_range("some.tar", places["4.txt"], 3) == b"004"
    with folder.open("some.tar") as stream:
        assert stream.seek(-10, io.SEEK_END) == len(tar.getvalue()) - 10
        assert stream.read() == tar.getvalue()[-10:]
        assert stream.read(1) == b""


def test_large_file_arrives_whole(folder):
    data = np.random.default_rng(0).bytes(40 * 2**20 + 1)  # three parts on S3
    folder.write("large", memoryview(data))
    assert folder.read("large") == data
    assert folder.read_range("large", 16 * 2**20 - 1, 3) == data[16 * 2**20 - 1 : 16 * 2**20 + 2]
    assert [info.bytes for info in folder.files()] == [len(data)]


def test_folder_is_a_value_that_workers_can_be_sent(folder):
    folder.write("x", b"1")
    received = pickle.loads(pickle.dumps(folder))  # noqa: S301 -- as Ray does
    assert received == folder
    assert hash(received) == hash(folder)
    assert received.read("x") == b"1"
    assert folder / "a" / "b" == folder / "a/b"


def test_missing_bucket_is_named(server):
    with reached_by(server.environment()):
        folder = Folder(f"{server.scheme}://no-such-bucket/folder")
        for action in (
            folder.names,
            lambda: folder.read("x"),
            lambda: folder.write("x", b""),
            lambda: list(folder.files()),
        ):
            with pytest.raises(FileNotFoundError, match=r"no-such-bucket.*no such bucket"):
                action()


def test_denied_access_is_told_from_a_missing_file(s3_server):
    s3_server.create_bucket("denied")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::denied/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    with reached_by(s3_server.environment()):
        folder = Folder("s3://denied/folder")
        folder.write("x", b"1")
        client(s3_server).put_bucket_policy(Bucket="denied", Policy=policy)
        with pytest.raises(PermissionError, match="s3://denied/folder/x: 403"):
            folder.read("x")


def test_missing_credentials_are_named(s3_server, tmp_path):
    environment = {name: "" for name in s3_server.environment() if name.startswith("AWS_") and "KEY" in name}
    hidden = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"), "AWS_CONFIG_FILE": str(tmp_path / "none")}
    nothing = {**s3_server.environment(), **environment, **hidden}
    with reached_by(nothing), pytest.raises(PermissionError, match="no AWS credentials: set AWS_ACCESS_KEY_ID"):
        Folder("s3://some-bucket").read("x")


def test_google_answers_mean_what_those_of_amazon_mean():
    from google.api_core import exceptions as google
    from google.auth.exceptions import DefaultCredentialsError
    from requests import exceptions as requests

    expected = {
        google.Forbidden("no"): PermissionError,
        google.Unauthorized("who"): CredentialsError,
        google.TooManyRequests("slow"): StorageUnavailableError,
        google.ServiceUnavailable("later"): StorageUnavailableError,
        google.BadRequest("what"): StorageRefusedError,
        requests.ConnectionError("reset"): StorageUnavailableError,
        requests.ChunkedEncodingError("broken off"): StorageUnavailableError,
        DefaultCredentialsError("none found"): CredentialsError,
    }
    for error, kind in expected.items():
        failure = _failure(error, "gs://bucket/x")
        assert type(failure) is kind
        assert str(failure).startswith("gs://bucket/x: ")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", PermissionError),  # of this object, or of all
        (403, "403", PermissionError),  # what HEAD tells
        (403, "SignatureDoesNotMatch", CredentialsError),
        (403, "InvalidAccessKeyId", CredentialsError),
        (403, "RequestTimeTooSkewed", CredentialsError),
        (400, "ExpiredToken", CredentialsError),
        (400, "InvalidToken", CredentialsError),
        (301, "PermanentRedirect", StorageRefusedError),
        (400, "AuthorizationHeaderMalformed", StorageRefusedError),
        (503, "SlowDown", StorageUnavailableError),
        (404, "NoSuchKey", FileNotFoundError),
    ],
)
def test_what_amazon_answers_says_whether_it_is_about_the_file_or_about_us(status, code, kind):
    failure = _answer({"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}, "s3://bucket/x")
    assert type(failure) is kind


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is denied to root")
def test_denied_local_file_is_told_from_a_missing_one(tmp_path):
    folder = Folder(tmp_path)
    folder.write("x", b"1")
    (tmp_path / "x").chmod(0)
    with pytest.raises(PermissionError):
        folder.read("x")


def test_what_a_killed_writer_left_is_found_and_deleted(folder):
    folder.write("whole", b"x")
    (folder / "deep").write("whole", b"x")
    left_behind(folder / "deep")
    found = list(folder.half_written())
    assert len(found) == (0 if folder.uri.startswith("gs://") else 1)
    for remains in [*found, *found]:
        folder.delete_half_written(remains)
    assert list(folder.half_written()) == []
    assert [info.path for info in folder.files()] == ["deep/whole", "whole"]


def left_behind(folder):
    """Leave what a writer leaves that is killed in the middle."""
    if folder.is_local:
        (folder.local / ".big.0123.tmp").write_bytes(b"half")
    elif folder.uri.startswith("s3://"):
        import boto3

        bucket, _, key = folder.uri.removeprefix("s3://").partition("/")
        boto3.client("s3").create_multipart_upload(Bucket=bucket, Key=f"{key}/big")
