"""Devices: their names in results, for a CPU with the instructions that decide how fast it computes integers."""

import platform
import re
from pathlib import Path

import torch

from zoo.errors import BadInput, counted

CPU_INFO = Path("/proc/cpuinfo")  # on Linux
INSTRUCTIONS = {"amx_int8": "AMX", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx2": "AVX2"}


def device_name(device: torch.device) -> str:
    """Return the name of a CUDA device, or of a CPU, such as `Intel Xeon Gold 6226 CPU, AVX512-VNNI`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = CPU_INFO.read_text() if CPU_INFO.is_file() else ""
    found = {
        key: (re.search(rf"^{key}\s*: (.*)$", text, re.MULTILINE) or [""] * 2)[1] for key in ("model name", "flags")
    }
    model = re.sub(r"\((R|TM)\)| @.*", "", found["model name"]) or platform.machine()
    best = next((name for flag, name in INSTRUCTIONS.items() if flag in found["flags"].split()), "")
    return ", ".join(filter(None, (" ".join(model.split()), best)))


def described(device: torch.device) -> str:
    """Return the name of a device, for a CPU with the number of threads that torch uses."""
    name = device_name(device)
    return name if device.type == "cuda" else f"CPU, {name}, {counted(torch.get_num_threads(), 'thread')}"


def device_for(accelerator: str) -> torch.device:
    """Return the device that is meant by cpu, cuda or, with auto, the better available one."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if accelerator == "auto" else accelerator
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"accelerator={accelerator} is not available here; use auto, cpu or cuda") from error


def synchronize(device: torch.device) -> None:
    """Wait until a device has done its work, so that its time can be taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
