"""Run `zoo.inference.evaluate` on files as evaluate.py does, in a process that records all side effects.

`python hostile.py FOLDER` reads every file in FOLDER, calls each net, and prints one line of JSON per file: the
sentence it was refused with, or null; forbidden side effects; seconds; and peak memory in MB.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
from omegaconf import OmegaConf

from zoo.checkpoint.stored_config import example_of
from zoo.errors import BadInput
from zoo.export.read_export import net_of, read_net
from zoo.inference import evaluate
from zoo.quantize.pt2e import lower  # noqa: F401  imported now, so that later imports are caused by a file

NUMBERS = (2, 4)  # of samples that each net is called with
MARK = "MARK"  # appears in everything that a hostile file tries to run
FOLDER = Path(sys.argv[1]).resolve()
INSTALLED = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[1])]
SYSTEM = [Path(p) for p in ("/proc", "/sys", "/usr", "/lib", "/etc", "/dev/null")]
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect"}
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
done: list[str] = []


def hook(event: str, args: tuple) -> None:
    if event in STARTS | WRITES | {"pickle.find_class", "socket.getaddrinfo", "urllib.Request"}:
        done.append(f"{event} {args!r}"[:200])
    elif event == "open" and isinstance(args[0], str | bytes):
        path, mode, flags = Path(os.fsdecode(args[0])).resolve(), str(args[1] or ""), int(args[2] or 0)
        writes = set("wax+") & set(mode) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        known = any(path.is_relative_to(place) for place in [FOLDER, *INSTALLED, *SYSTEM])
        if path != Path("/dev/null") and (writes or not known):
            done.append(f"open {path} {mode}")
    elif event in ("compile", "exec") and MARK in str(args[0]):
        done.append(f"{event} {str(args[0])[:100]}")
    elif event == "import" and MARK in str(args[0]):
        done.append(f"import {args[0]}")


def settings(path: Path) -> dict:
    own = {"accelerator": "cpu", "split": "test", "batch_size": 8, "beam": 1, "sparse": False}
    return OmegaConf.create({**own, "checkpoint": str(path), "data_root": None, "download": False, "out": None})


def main() -> None:
    torch.set_num_threads(1)
    os.chdir(FOLDER)
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".safetensors", ".zoo", ".pt2", ".onnx"))
    whole = [path for path in files if path.stem.startswith("whole")]
    sys.addaudithook(hook)
    for path in [*whole, *files]:  # intact ones twice, so that their imports are done
        done.clear()
        start, sentence = time.perf_counter(), None
        try:
            file = read_net(str(path))
            net = net_of(file)
            for num in NUMBERS:
                example = [torch.zeros(num, *x.shape[1:], dtype=x.dtype) for x in example_of(file.facts)]
                with torch.no_grad():
                    net.eval()(*example)
            if path.name == "whole.safetensors" or not path.stem.startswith("whole"):  # data take seconds to read
                evaluate.rebuild(file, settings(path))
        except BadInput as error:
            sentence = str(error)
        except Exception as error:
            done.append(f"{type(error).__name__}: {error}"[:300])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        line = {"file": path.name, "sentence": sentence, "done": list(done), "mb": peak}
        print(json.dumps(line | {"seconds": time.perf_counter() - start}), flush=True)


main()
