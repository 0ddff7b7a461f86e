"""Cores counted as a container's control group has them; /proc and /sys are made up in a folder."""

from pathlib import Path

import pytest

from allq.cores import cores

V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = (
    "31 30 0:27 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 {top} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)
GROUP_V1 = "12:cpuset:{own}\n5:cpu,cpuacct:{own}\n0::{own}\n"


@pytest.fixture(autouse=True)
def large_machine(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.fixture
def machine(tmp_path):
    def make(mounts: str, membership: str, **files: str) -> Path:
        for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": membership, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000", 2),
        ("max 100000", 64),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("9000000 100000", 64),
        ("", 64),
        ("odd", 64),
    ],
)
def test_a_container_has_the_processors_it_was_given(machine, limit, expected):
    root = machine(V2.format(top="/"), "0::/\n", **{"sys/fs/cgroup/cpu.max": f"{limit}\n"})
    assert cores(root) == expected


def test_the_tightest_group_of_those_that_a_service_lies_in_decides(machine):
    own = "/system.slice/allq.service"
    root = machine(
        V2.format(top="/"),
        f"0::{own}\n",
        **{
            f"sys/fs/cgroup{own}/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/other.slice/cpu.max": "100000 100000\n",
        },
    )
    assert cores(root) == 4


@pytest.mark.parametrize(("top", "own"), [("/docker/1f", "/docker/1f"), ("/", "/../../elsewhere"), ("/docker/1f", "/")])
def test_where_the_group_is_mounted_itself_its_file_lies_at_the_top(machine, top, own):
    root = machine(V2.format(top=top), f"0::{own}\n", **{"sys/fs/cgroup/cpu.max": "300000 100000\n"})
    assert cores(root) == 3


@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 64)])
def test_the_quota_of_older_kernels_counts_as_well(machine, quota, expected):
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/1f"
    root = machine(
        V1.format(top="/"),
        GROUP_V1.format(own="/docker/1f"),
        **{f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"},
    )
    assert cores(root) == expected


def test_affinity_counts_where_no_group_allows_less(machine, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5}, raising=False)
    root = machine(V2.format(top="/"), "0::/\n", **{"sys/fs/cgroup/cpu.max": "800000 100000\n"})
    assert cores(root) == 2


def test_without_proc_the_scheduler_is_believed(tmp_path):
    assert cores(tmp_path) == 64


def test_this_machine_has_a_core():
    assert cores() >= 1
