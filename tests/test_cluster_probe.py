"""What a cluster tells of itself, and what of it keeps a run from starting."""

import json
import platform
import socket

import pytest
import ray
from ray.core.generated import autoscaler_pb2

from orl_ray.cluster_probe import (
    ClusterFacts,
    ClusterUnavailableError,
    NodeGroup,
    _groups,
    ask_cluster,
    cluster_address,
    private_facts,
    resource_problems,
    version_problems,
)
from orl_ray.config import Config, Execution


def facts(*nodes, groups=()):
    return ClusterFacts(ray.__version__, platform.python_version(), nodes, groups)


class TestRoom:
    def test_workers_that_fit_are_fine_wherever_they_fit(self):
        assert resource_problems(Execution(train_workers=3), facts({"CPU": 2.0}, {"CPU": 1.0})) == []
        assert resource_problems(Execution(train_workers=2, train_cpus=4), facts({"CPU": 4.0}, {"CPU": 4.0})) == []

    def test_cpus_of_two_nodes_make_no_worker(self):
        (problem,) = resource_problems(Execution(train_workers=1, train_cpus=4), facts({"CPU": 3.0}, {"CPU": 3.0}))
        assert problem.startswith("no room for 1 training workers with 4 CPUs each: 6 CPUs in all make room for 0.")

    def test_too_few_gpus_are_told_with_those_there_are(self):
        wanted = Execution(train_workers=4, use_gpu=True)
        (problem,) = resource_problems(wanted, facts({"CPU": 64.0, "GPU": 2.0}, {"CPU": 8.0}))
        assert "4 training workers with 1 CPU and 1 GPU each: 72 CPUs, 2 GPUs in all make room for 2." in problem

    def test_an_elastic_training_needs_room_for_its_fewest_workers(self):
        wanted = Execution(train_workers=4, min_train_workers=2)
        assert resource_problems(wanted, facts({"CPU": 2.0})) == []
        (problem,) = resource_problems(wanted, facts({"CPU": 1.0}))
        assert problem.startswith("no room for 2 training workers with 1 CPU each")
        assert "Lower execution.min_train_workers" in problem

    def test_what_an_autoscaler_can_bring_is_not_refused(self):
        wanted, head = Execution(train_workers=8, use_gpu=True), {"CPU": 1.0}
        group = NodeGroup({"CPU": 32.0, "GPU": 4.0}, more=2)
        assert resource_problems(wanted, facts(head, groups=(group,))) == []
        assert resource_problems(wanted, facts(head, groups=(NodeGroup(group.resources, more=-1),))) == []
        assert resource_problems(wanted, facts(head, groups=None)) == []

    def test_what_an_autoscaler_cannot_bring_is_refused(self):
        wanted, head = Execution(train_workers=8, use_gpu=True), {"CPU": 1.0}
        for group in (NodeGroup({"CPU": 32.0, "GPU": 4.0}, more=1), NodeGroup({"CPU": 32.0}, more=-1)):
            (problem,) = resource_problems(wanted, facts(head, groups=(group,)))
            assert "and what its autoscaler may add" in problem

    def test_a_private_ray_has_what_the_machine_or_the_setting_says(self):
        assert private_facts(Execution(cpus=3)).nodes == ({"CPU": 3.0},)
        assert private_facts(Execution()).nodes[0]["CPU"] >= 1


class TestAutoscalers:
    """What the GCS of a real head held (Ray 2.60), with and without an autoscaler."""

    def groups(self, config=b"", version_2=b"0", types=None):
        report = {"autoscaler_report": {"node_type_mapping": types}}
        return _groups(["head", "gpu"], config, version_2, json.dumps(report).encode())

    def test_a_plain_head_cannot_grow(self):
        assert self.groups(types={"fd4e": "node_fd4e"}) == ()
        assert _groups([""], b"", b"", b"") == ()

    def test_autoscalers_of_both_versions_may_bring_what_they_do_not_tell(self):
        assert self.groups(types={"ffff": "ray.head.default"}) is None
        assert self.groups(version_2=b"1") is None

    def test_one_that_tells_its_limits_may_bring_what_is_not_there_yet(self):
        config = autoscaler_pb2.ClusterConfig()
        for name, most in (("head", 1), ("gpu", 3), ("cpu", -1)):
            config.node_group_configs.add(name=name, max_count=most, resources={"CPU": 4})
        told = self.groups(config=config.SerializeToString(), version_2=b"1")
        assert [(dict(group.resources), group.more) for group in told] == [({"CPU": 4}, n) for n in (0, 2, -1)]


class TestVersions:
    def test_the_same_versions_agree(self):
        assert version_problems(facts()) == []

    def test_others_are_named_with_ours(self):
        found = version_problems(ClusterFacts("2.1.0", "3.9.1", ()))
        assert [problem.partition(":")[0] for problem in found] == [
            f"it runs Ray 2.1.0, this process Ray {ray.__version__}",
            f"it runs Python 3.9.1, this process Python {platform.python_version()}",
        ]

    def test_patches_count_unless_ray_is_told_otherwise(self, monkeypatch):
        patched = platform.python_version().rpartition(".")[0] + ".99"
        assert len(version_problems(ClusterFacts(ray.__version__, patched, ()))) == 1
        monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
        assert version_problems(ClusterFacts(ray.__version__, patched, ())) == []


class TestAddresses:
    def test_the_setting_goes_before_the_environment(self, monkeypatch):
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        assert cluster_address(Config()) == "10.0.0.1:6379"
        assert cluster_address(Config(execution=Execution(ray_address="10.0.0.2:6379"))) == "10.0.0.2:6379"
        assert cluster_address(Config(execution=Execution(ray_address="local"))) == ""

    @pytest.mark.parametrize(
        ("address", "told"),
        [
            ("ray://head:10001", "an address of Ray Client, which a run cannot use: submit the job"),
            ("http://head:8265", "an address of the job server, which a run cannot use: submit the job"),
            ("nonsense", "Invalid address format: nonsense; it must be the host and port"),
        ],
    )
    def test_addresses_of_something_else_are_told(self, address, told):
        with pytest.raises(ClusterUnavailableError, match=told):
            ask_cluster(address, 1.0)

    def test_a_port_where_nobody_listens(self):
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(ClusterUnavailableError, match=r"no Ray cluster answers there .*Connection refused"):
            ask_cluster(f"127.0.0.1:{port}", 1.0)

    def test_a_port_where_something_else_answers(self):
        with socket.create_server(("", 0)) as other:
            other.settimeout(5)
            with pytest.raises(ClusterUnavailableError, match="must be the host and port of the cluster's GCS"):
                ask_cluster(f"127.0.0.1:{other.getsockname()[1]}", 0.5)
