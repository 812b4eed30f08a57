"""The commands ``gc`` and ``delete``: nothing goes before --delete, and people are told what goes and what next."""

import pytest
from test_garbage import record_run

from orl_ray.__main__ import main
from orl_ray.occupancy import at_work


@pytest.fixture
def small(finished, tmp_path):
    copy = finished.copy(tmp_path / "store")
    record_run(copy, "20260101-a")
    copy.store.root.write("checkpoints/object_level/0123/step-1/state.json", b"{}")
    return copy


def files_of(store):
    return {info.path: info.stamp for info in store.root.files() if not info.path.startswith("leases/")}


def test_gc_tells_first_and_deletes_when_asked(small, capsys):
    store, before = str(small.store.root), files_of(small.store)
    assert main(["gc", store]) == 0
    told = capsys.readouterr().out
    assert "checkpoints" in told
    assert "nothing is deleted yet: add --delete" in told
    assert files_of(small.store) == before
    assert main(["gc", store, "--delete"]) == 0
    assert before.keys() - files_of(small.store).keys() == {"checkpoints/object_level/0123/step-1/state.json"}
    assert main(["gc", store]) == 0
    assert "no garbage" in capsys.readouterr().out


def test_gc_with_nothing_to_keep_is_refused(small, capsys):
    with pytest.raises(SystemExit):
        main(["gc", str(small.store.root), "--keep-runs", "0"])
    assert "at least the newest run is kept" in capsys.readouterr().err


def test_delete_tells_first_and_deletes_when_asked(small, capsys):
    store, before = str(small.store.root), files_of(small.store)
    image_id = small.tables("scenes")[0]["image_id"][0].as_py()
    assert main(["delete", store, str(image_id)]) == 0
    told = capsys.readouterr().out
    assert "1 of 1 images are in the packs" in told
    assert "nothing is deleted yet: add --delete" in told
    assert files_of(small.store) == before
    assert main(["delete", store, str(image_id), "--reason", "asked for", "--delete"]) == 0
    told = capsys.readouterr().out
    assert "packed again without them" in told
    assert "kept: made of many images" in told
    assert "run the job again" in told
    assert small.store.read_json(f"takedowns/{image_id}.json")["reason"] == "asked for"
    assert main(["delete", store, str(image_id)]) == 0
    assert "0 of 1 images are in the packs" in capsys.readouterr().out


def test_what_is_in_use_is_left_alone(small, capsys):
    before = files_of(small.store)
    with at_work(small.store, "20260102-b", 30):
        assert main(["gc", str(small.store.root), "--delete"]) == 2
    assert "in use by 20260102-b" in capsys.readouterr().err
    assert files_of(small.store) == before


@pytest.mark.parametrize("command", [["gc"], ["delete"]])
def test_a_folder_that_is_no_store_is_refused(tmp_path, capsys, command):
    assert main([*command, str(tmp_path / "typo"), *(["7"] if command == ["delete"] else [])]) == 2
    assert "is no store" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    assert main([*command, str(tmp_path), *(["7"] if command == ["delete"] else []), "--delete"]) == 2
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("image_id", ["-1", "photo.jpg", str(2**63)])
def test_what_is_no_image_id_is_refused(small, image_id):
    with pytest.raises(SystemExit):
        main(["delete", str(small.store.root), image_id])


def test_commands_are_told(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("run", "gc", "delete", "import", "export"))
    assert main(["clean"]) == 2
    assert "no command 'clean'" in capsys.readouterr().err
