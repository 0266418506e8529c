"""The name of a CPU in results."""

import pytest
import torch

from zoo.measure import device


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ("model name\t: Intel(R) Xeon(R) Gold 6226 CPU @ 2.70GHz\nflags\t\t: fpu avx2 avx512_vnni\n", "AVX512-VNNI"),
        ("model name\t: Intel(R) Xeon(R) Gold 6226  CPU\nflags\t\t: avx2 avx512_vnni amx_int8\n", "AMX"),
        ("flags\t\t: avx2\nmodel name\t: Intel Xeon Gold 6226 CPU\n" * 2, "AVX2"),
    ],
)
def test_a_cpu_is_named_with_its_fastest_instructions(tmp_path, monkeypatch, info, name):
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    assert device.device_name(torch.device("cpu")) == f"Intel Xeon Gold 6226 CPU, {name}"


def test_where_linux_is_absent_the_machine_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(device.platform, "machine", lambda: "arm64")
    assert device.device_name(torch.device("cpu")) == "arm64"
