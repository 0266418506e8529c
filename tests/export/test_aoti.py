"""The AOTInductor package: it runs in a process with only torch."""

import json
import os
import shutil

import pytest
import torch
from small import FACTS, said_alone
from torch import nn

from zoo.errors import BadInput
from zoo.export.aoti import save_aoti
from zoo.export.parts import parts
from zoo.export.read_export import read_export


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="there is no C++ compiler")
@pytest.mark.slow  # compiles for half a minute
def test_torch_alone_runs_it_for_any_number_of_images_and_it_is_never_run_here(tmp_path):
    torch.manual_seed(0)
    net, file = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.ReLU()), tmp_path / "model.pt2"
    save_aoti(file, parts(net, FACTS)[""], FACTS)
    code = (
        "import json, sys, torch, torch._inductor\n"
        "net = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "assert not any(name.startswith('zoo') for name in sys.modules)\n"
        "logits = [net(torch.arange(784 * n).reshape(n, 1, 28, 28) / 784).tolist() for n in (1, 3, 64)]\n"
        "print(json.dumps([logits, net.get_metadata()]))"
    )
    logits, texts = said_alone(code, file)
    for n, found in zip((1, 3, 64), logits, strict=True):
        wanted = net(torch.arange(784 * n).reshape(n, 1, 28, 28) / 784)
        torch.testing.assert_close(torch.tensor(found), wanted.detach(), rtol=1e-5, atol=1e-5)
    assert json.loads(texts["classes"])[9] == "class 9"
    assert json.loads(texts["mean"]) == [72.9]
    with pytest.raises(BadInput, match="compiled code, which is never run here"):
        read_export(file)
