import os
import resource
import subprocess
import sys

import pytest

from zoo.files import replacing, write_json, write_text


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def write_half():
        with replacing(path) as file:
            file.write(b"half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_disk_that_fills_up_while_writing_leaves_the_old_content(tmp_path):
    """The kernel refuses to let a file grow beyond 4,096 bytes, as a full disk would."""
    path = tmp_path / "x.txt"
    write_text(path, "old")
    code = f"from zoo.files import write_text; write_text({str(path)!r}, 'x' * 100_000)"
    limit = (4096, 4096)
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
    )
    assert "OSError" in done.stderr
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_files_have_the_permissions_of_ordinary_ones(tmp_path):
    write_text(tmp_path / "ours", "")
    (tmp_path / "ordinary").write_text("")
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "ordinary").st_mode


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
