"""The preflight before Ray: each problem by itself, all of them at once, and no endpoint that keeps a run waiting."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import boto3
import pytest
from object_store import client, object_store, reached_by

from orl_ray.checks import DEADLINE, Check, PreflightError, run_checks
from orl_ray.config import Config, Execution, Source
from orl_ray.folders import Folder
from orl_ray.preflight import Needs, check_endpoints
from orl_ray.pretraining import trackers
from orl_ray.storage import Store

# A deadline, and imports on a busy machine; the clients by themselves would take minutes.
SOON = 9.0


def config(images=None, store="", annotations="", splits="", **execution):
    kind = "generated" if images is None else "coco" if annotations else "folder"
    source = Source(kind=kind, images=str(images or ""), annotations=str(annotations), splits=str(splits))
    return Config(source=source, execution=Execution(store=str(store), **execution))


def problems(settings, deadline=DEADLINE):
    begun = time.monotonic()
    try:
        check_endpoints(settings, Store(settings.execution.store), deadline=deadline)
    except PreflightError as error:
        found = list(error.problems)
    else:
        found = []
    assert time.monotonic() - begun < SOON
    return found


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_trackers_that_cannot_be_used_are_told_with_what_to_do(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    store = tmp_path / "store"
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    found = problems(config(store=store, tensorboard=str(tmp_path / "events"), mlflow="http://127.0.0.1:9"))
    assert [line.split(" ")[:2] for line in found] == [
        ["tracker", "execution.tensorboard"],
        ["tracker", "execution.mlflow"],
    ]
    assert all("is not installed: pip install 'orl-ray[tracking]'" in line for line in found)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: True)
    (found,) = problems(config(store=store, tensorboard=str(file / "events")))
    assert "execution.tensorboard" in found
    assert "Not a directory" in found
    assert not problems(config(store=store, tensorboard=str(tmp_path / "events")))


def test_trackers_are_not_asked_where_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    settings = config(store=tmp_path / "store", tensorboard=str(tmp_path / "events"))
    check_endpoints(settings, Store(settings.execution.store), lambda: Needs(training=False))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a")
    return folder


@contextlib.contextmanager
def listening(backlog=8):
    """A socket that takes connections and never says anything."""
    with socket.create_server(("", 0), backlog=backlog) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def unroutable():
    """A port whose packets are dropped: its queue is full."""
    with listening(backlog=0) as port, contextlib.ExitStack() as stack:
        while True:
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.2)
            try:
                waiting.connect(("127.0.0.1", port))
            except TimeoutError:
                break
        yield port


@pytest.fixture
def other_user():
    """Yield a folder of somebody else's, with a store in it that all may write; file rights are checked as a user's."""
    folder = Path(tempfile.mkdtemp(prefix="orl"))
    folder.chmod(0o755)
    Store(folder / "store").prepare()
    (folder / "store").chmod(0o777)
    (folder / "private").mkdir(mode=0o700)
    user = os.geteuid()
    if user:
        pytest.skip("only root can act as somebody else")
    os.seteuid(65534)
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


class TestDisk:
    def test_of_what_is_there_nothing_is_told_and_only_the_store_is_left(self, tmp_path, photos):
        store = tmp_path / "store"
        assert problems(config(photos, store)) == []
        assert [info.path for info in Folder(store).files()] == ["orl_store.json"]
        assert problems(config(photos, store)) == []

    def test_a_root_that_may_not_be_written(self, other_user):
        (problem,) = problems(config(store=other_user / "new"))
        assert problem.startswith(f"store {other_user}/new: [Errno 13] Permission denied")
        assert "Run as a user who may" in problem

    def test_a_root_that_holds_something_else(self, tmp_path, photos):
        assert problems(config(store=photos)) == [
            f"store {photos}: is not empty and not a store; name an empty or a new folder"
        ]
        assert [path.name for path in photos.iterdir()] == ["a.jpg"]

    def test_a_root_without_exclusive_creation(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "link", shutil.copy)  # a file system that lets the second contender through
        (problem,) = problems(config(store=tmp_path / "store"))
        assert "two drivers could write one output" in problem

    def test_a_source_that_is_gone_matters_only_where_it_is_read(self, tmp_path):
        settings = config(tmp_path / "gone", tmp_path / "store")
        store = Store(settings.execution.store)
        check_endpoints(settings, store, lambda: Needs(source=False))
        with pytest.raises(PreflightError, match="there is no such folder"):
            check_endpoints(settings, store, lambda: Needs(ray=False, training=False))

    def test_room_for_a_training_matters_only_where_there_is_one(self, tmp_path):
        settings = config(store=tmp_path / "store", cpus=1, train_workers=3)
        store = Store(settings.execution.store)
        check_endpoints(settings, store, lambda: Needs(training=False))
        check_endpoints(settings, store, lambda: Needs(ray=False))
        with pytest.raises(PreflightError, match="no room for 3 training workers"):
            check_endpoints(settings, store, lambda: Needs(source=False))

    def test_a_store_that_cannot_be_used_is_told_with_everything_else(self, tmp_path, photos):
        settings = config(tmp_path / "gone", photos)

        def never_asked():
            raise AssertionError("a store that cannot be read tells nothing")

        with pytest.raises(PreflightError) as raised:
            check_endpoints(settings, Store(photos), never_asked)
        assert len(raised.value.problems) == 2

    def test_an_image_folder_that_is_not_there(self, tmp_path):
        (problem,) = problems(config(tmp_path / "gone", tmp_path / "store"))
        assert problem == f"source.images {tmp_path}/gone: there is no such folder: is it mounted, is the name right?"

    def test_an_image_folder_without_files_as_a_lost_mount_leaves_it(self, tmp_path):
        (tmp_path / "mount" / "train2017").mkdir(parents=True)
        (problem,) = problems(config(tmp_path / "mount", tmp_path / "store"))
        assert problem == f"source.images {tmp_path}/mount: it holds no files: is it mounted, is the name right?"

    def test_an_image_folder_that_may_not_be_read(self, other_user):
        (problem,) = problems(config(other_user / "private", other_user / "store"))
        assert problem.startswith(f"source.images {other_user}/private: [Errno 13] Permission denied")

    def test_one_image_that_may_not_be_read_is_for_the_quarantine(self, other_user):
        images = other_user / "store" / "images"
        images.mkdir()
        for name in "abc":
            (images / name).write_bytes(b"x")
        (images / "a").chmod(0)
        assert problems(config(images, other_user / "store")) == []
        for name in "bc":
            (images / name).chmod(0)
        (problem,) = problems(config(images, other_user / "store"))
        assert "Permission denied" in problem

    def test_files_that_are_not_there_or_empty(self, tmp_path, photos):
        (tmp_path / "splits.json").touch()
        settings = config(photos, tmp_path / "store", tmp_path / "gone.json", tmp_path / "splits.json")
        assert problems(settings) == [
            f"source.annotations {tmp_path}/gone.json: there is no such file",
            f"source.splits {tmp_path}/splits.json: it is empty",
        ]

    def test_of_very_many_files_only_the_first_few_are_looked_at(self, tmp_path, photos):
        looked = []

        class Watched:
            def __init__(self, folder, scandir=os.scandir):
                self.entries = scandir(folder)

            def __iter__(self):
                return (looked.append(entry.name) or entry for entry in self.entries)

            def __enter__(self):
                return self

            def __exit__(self, *_error):
                self.entries.close()

        for name in range(100):
            (photos / f"{name}.jpg").write_bytes(b"x")
        with mock.patch.object(os, "scandir", Watched):
            assert problems(config(photos, tmp_path / "store")) == []
        assert len([name for name in looked if name.endswith(".jpg")]) == 1


USERS = {"owner": ["s3:*"], "reader": ["s3:ListBucket", "s3:GetObject"], "nobody": ["s3:ListAllMyBuckets"]}


@pytest.fixture(scope="module")
def users():
    """The environments of three users of a service that checks who asks, with photographs in a bucket."""
    freely = 3 + 3 * len(USERS)  # requests before it begins to check
    with mock.patch.dict(os.environ, {"INITIAL_NO_AUTH_ACTION_COUNT": str(freely)}), object_store() as server:
        server.create_bucket("there")
        client(server).put_object(Bucket="there", Key="photos/a.jpg", Body=b"a")
        client(server).put_object(Bucket="there", Key="photos.json", Body=b"{}")
        with reached_by(server.environment()):
            identity = boto3.session.Session().client("iam")
        yield {user: {**server.environment(), **new_user(identity, user)} for user in USERS}


def new_user(identity, name):
    statement = {"Effect": "Allow", "Action": USERS[name], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    identity.create_user(UserName=name)
    identity.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy)
    key = identity.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.fixture
def owner(users):
    with reached_by(users["owner"]):
        yield users["owner"]


class TestBuckets:
    def test_of_what_is_there_nothing_is_told_and_only_the_store_is_left(self, owner):
        assert problems(config("s3://there/photos", "s3://there/store", "s3://there/photos.json")) == []
        assert [info.path for info in Folder("s3://there/store").files()] == ["orl_store.json"]

    def test_missing_buckets_folders_and_files_are_told_apart(self, owner):
        settings = config("s3://there/fotos", "s3://missing/store", "s3://missing/a.json", "s3://there/b.json")
        create = "there is no such bucket. Create it, or mend its name"
        assert problems(settings) == [
            f"store s3://missing/store: {create}",
            "source.images s3://there/fotos: it holds no files: is it mounted, is the name right?",
            f"source.annotations s3://missing/a.json: {create}",
            "source.splits s3://there/b.json: there is no such file",
        ]

    def test_without_credentials(self, owner, tmp_path):
        none = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
        with reached_by({**owner, **none, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}):
            (problem,) = problems(config(store="s3://there/store"))
        assert problem.startswith("store s3://there/store: no AWS credentials: set AWS_ACCESS_KEY_ID and")

    def test_a_service_that_is_down(self, owner):
        with socket.create_server(("127.0.0.1", 0)) as free:
            down = f"http://127.0.0.1:{free.getsockname()[1]}"
        with reached_by({**owner, "AWS_ENDPOINT_URL": down}):
            (problem,) = problems(config(store="s3://there/store"), deadline=3.0)
        assert "Could not connect to the endpoint URL" in problem
        assert problem.endswith(f"Is AWS_ENDPOINT_URL={down} right, is there a route to it, is it up?")


class TestRights:
    def problems_of(self, user, **changes):
        with reached_by({**user, **changes}):
            return problems(config("s3://there/photos", "s3://there/store"))

    def test_who_may_only_read_cannot_keep_a_store(self, users):
        (problem,) = self.problems_of(users["reader"])
        assert problem.startswith("store s3://there/store: 403 AccessDenied")
        assert "lack a permission: s3:ListBucket, s3:GetObject, for the store s3:PutObject" in problem

    def test_who_may_nothing_is_told_so_of_each_place(self, users):
        found = self.problems_of(users["nobody"])
        assert [problem.split()[0] for problem in found] == ["store", "source.images"]
        assert all("lack a permission" in problem for problem in found)

    def test_a_wrong_secret_and_an_unknown_key_are_told_apart(self, users):
        secret = self.problems_of(users["owner"], AWS_SECRET_ACCESS_KEY="x" * 40)
        key_id = self.problems_of(users["owner"], AWS_ACCESS_KEY_ID="AKIA" + 16 * "X")
        assert len(secret) == len(key_id) == 2
        assert all("The credentials are wrong: check AWS_SECRET_ACCESS_KEY" in problem for problem in secret)
        assert all("The credentials are wrong: check AWS_ACCESS_KEY_ID, and whether" in problem for problem in key_id)


class TestSilence:
    def test_endpoints_that_never_answer_are_all_told_after_one_deadline(self, users):
        with contextlib.ExitStack() as stack:
            quiet, lost = stack.enter_context(listening()), stack.enter_context(unroutable())
            stack.enter_context(reached_by({**users["owner"], "AWS_ENDPOINT_URL": f"http://127.0.0.1:{quiet}"}))
            settings = config("s3://there/photos", "s3://there/store", ray_address=f"127.0.0.1:{lost}")
            found = problems(settings, deadline=3.0)
        silence = "no answer within 3 s: is it up, and is there a route to it?"
        assert found[:2] == [f"store s3://there/store: {silence}", f"source.images s3://there/photos: {silence}"]
        # Ray's own deadline, or ours where this process was too slow to hear of it.
        assert found[2].startswith(
            tuple(f"Ray cluster 127.0.0.1:{lost}: {a}" for a in ("it did not answer in time", silence))
        )
        assert len(found) == 3

    @pytest.mark.parametrize("silent", [listening, unroutable])
    def test_a_check_without_an_answer_keeps_no_process_alive(self, silent):
        script = (
            "import sys; from orl_ray.preflight import check_endpoints; from orl_ray.config import Config;"
            "from orl_ray.storage import Store; check_endpoints(Config(), Store('s3://there/store'), deadline=0.3)"
        )
        with silent() as port:
            variables = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a"}
            begun = time.monotonic()
            ended = subprocess.run(
                [sys.executable, "-c", script],
                env={**variables, "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert "store s3://there/store: no answer within 0.3 s" in ended.stderr
        assert time.monotonic() - begun < SOON


def test_checks_run_side_by_side_and_their_problems_come_in_order():
    def slow():
        time.sleep(0.4)
        return ["slow", "twice"]

    def broken():
        raise RuntimeError("broken\n  in two lines")

    checks = [Check("a", "x", slow), Check("b", "y", broken), *[Check("c", "z", slow)] * 8]
    begun = time.monotonic()
    found = run_checks(checks, deadline=5)
    assert time.monotonic() - begun < 2
    assert found == ["a x: slow", "a x: twice", "b y: broken in two lines", *["c z: slow", "c z: twice"] * 8]
