"""Each kind of bad input gets one clear line, exit 1, and leaves nothing behind."""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cli_shell import Shell
from promptreg.digests import Digest


def refused(shell: Shell, *words: str | Path) -> str:
    """Run a command that must fail with one line on stderr, and return that line."""
    result = shell(*words, code=1)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def safetensors(path: Path, values: list[float], shape: list[int]) -> Path:
    """Write a bare safetensors file by hand."""
    data = struct.pack(f"<{len(values)}f", *values)
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"prompt_embeddings": entry}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.fixture
def width(base: Path) -> int:
    config = json.loads((base / "config.json").read_text())
    return int(config["hidden_size"])


def test_a_file_that_is_no_prompt(shell: Shell, base: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("dear diary")
    assert "is no soft prompt" in refused(shell, "push", notes, "--task", "t", "--base", base)


def test_an_empty_folder(shell: Shell, base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no soft prompt" in refused(shell, "push", "empty", "--task", "t", "--base", base)


def test_not_a_number(shell: Shell, base: Path, width: int, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "p.safetensors", [1.0, float("nan")] * (width // 2), [1, width])
    line = refused(shell, "push", path, "--task", "t", "--base", base)
    assert "NaN" in line
    assert not shell.objects()


def test_a_wrong_width_for_the_base(shell: Shell, base: Path, width: int, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "p.safetensors", [0.5] * (width + 1), [1, width + 1])
    line = refused(shell, "push", path, "--task", "t", "--base", base)
    assert f"token_dim {width + 1}" in line
    assert f"token_dim {width}" in line
    assert not shell.objects()


def test_a_pickle_whatever_its_name(shell: Shell, base: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"prompt_embeddings": torch.zeros(1, 8)}, tmp_path / "prompt.safetensors")
    line = refused(shell, "push", tmp_path / "prompt.safetensors", "--task", "t", "--base", base)
    assert "pickle" in line


def test_a_base_without_weights(shell: Shell, base: Path, reverse: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(base / "config.json", bare)
    assert "bare" in refused(shell, "push", reverse, "--task", "t", "--base", bare)
    assert not shell.objects()


def test_a_base_with_pickled_weights(
    shell: Shell, base: Path, reverse: Path, tmp_path: Path
) -> None:
    import torch

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(base / "config.json", pickled)
    torch.save({"w": torch.zeros(2)}, pickled / "pytorch_model.bin")
    assert "pickle" in refused(shell, "push", reverse, "--task", "t", "--base", pickled)


def test_an_unknown_task_suggests_a_known_one(shell: Shell, base: Path, reverse: Path) -> None:
    shell("push", reverse, "--task", "reverse", "--base", base, "--no-canary")
    assert "'reverze'" in (line := refused(shell, "show", "reverze"))
    assert "did you mean reverse" in line


def test_an_unknown_version_alias_and_digest(shell: Shell, base: Path, reverse: Path) -> None:
    shell("push", reverse, "--task", "t", "--base", base, "--no-canary")
    assert "t@9" in refused(shell, "pull", "t@9")
    assert "t@prod" in refused(shell, "pull", "t@prod")
    assert "sha256:00000000" in refused(shell, "pull", "sha256:00000000")


def test_an_unknown_base(shell: Shell, reverse: Path) -> None:
    line = refused(shell, "push", reverse, "--task", "t", "--base", "gemma")
    assert "'gemma'" in line
    assert "promptreg base add" in line


def test_an_ambiguous_reference_lists_the_candidates(
    shell: Shell, base: Path, reverse: Path, tmp_path: Path
) -> None:
    from promptreg_cli.demo.bases import wrong_base

    wrong_base(base, tmp_path / "other")
    shell("push", reverse, "--task", "t", "--base", base, "--alias", "prod", "--no-canary")
    shell("push", reverse, "--task", "t", "--base", "other", "--alias", "prod", "--no-canary")
    line = refused(shell, "show", "t@prod")
    assert "t@1" in line
    assert "t@2" in line
    assert "--base" in line
    assert shell.json("show", "t@prod", "--base", "other")[0]["ref"] == "t@2"


@pytest.mark.parametrize("name", ["Spam", "a b", "../../etc", "a@1", ""])
def test_a_name_outside_the_grammar(shell: Shell, base: Path, reverse: Path, name: str) -> None:
    assert "is no task name" in refused(shell, "push", reverse, "--task", name, "--base", base)


def test_an_alias_that_is_a_number(shell: Shell, base: Path, reverse: Path) -> None:
    push = ("push", reverse, "--task", "t", "--base", base)
    assert "is no alias" in refused(shell, *push, "--alias", "3")
    assert not shell.objects()


def test_a_filter_that_cannot_be_read(shell: Shell) -> None:
    assert "hp.lr >" in refused(shell, "list", "--where", "hp.lr >")
    assert "colour" in refused(shell, "list", "--where", "colour = red")
    assert "colour" in refused(shell, "list", "--sort", "colour")


def test_a_store_that_cannot_be_reached(shell: Shell, base: Path, reverse: Path) -> None:
    shell.environment = {
        "PROMPTREG_OBJECTS_URL": "s3://bucket?endpoint=http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    line = refused(shell, "push", reverse, "--task", "t", "--base", base, "--no-canary")
    assert "s3://bucket" in line
    shell.environment = {}
    assert shell.json("list") == []


def test_a_store_that_cannot_be_written(
    shell: Shell, base: Path, reverse: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    shell.environment = {"PROMPTREG_OBJECTS_URL": str(tmp_path / "file" / "objects")}
    line = refused(shell, "push", reverse, "--task", "t", "--base", base, "--no-canary")
    assert "file/objects" in line


def test_a_store_url_that_nobody_understands(shell: Shell, base: Path, reverse: Path) -> None:
    shell.environment = {"PROMPTREG_OBJECTS_URL": "ftp://bucket"}
    line = refused(shell, "push", reverse, "--task", "t", "--base", base, "--no-canary")
    assert "ftp://bucket" in line


def test_a_database_that_is_none(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is no database" * 100)
    shell.environment = {"PROMPTREG_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    assert "x.db" in refused(shell, "list")


def test_a_database_without_a_schema_names_the_command(shell: Shell, tmp_path: Path) -> None:
    shell.environment = {"PROMPTREG_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    assert refused(shell, "list").endswith("run 'promptreg upgrade'")
    shell("upgrade")
    shell("list")
    assert "already" in shell("upgrade").stdout


def test_a_database_of_a_newer_schema(shell: Shell) -> None:
    shell("list")
    with sqlite3.connect(shell.home / "promptreg.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert refused(shell, "list").endswith("upgrade promptreg itself")


def test_a_database_that_lost_its_revision(shell: Shell) -> None:
    shell("list")
    with sqlite3.connect(shell.home / "promptreg.db") as connection:
        connection.execute("DELETE FROM alembic_version")
    assert "the revision of its schema is not" in refused(shell, "list")


def test_a_page_of_another_query(shell: Shell) -> None:
    assert "repeat the query" in refused(shell, "list", "--after", "xyz")


def test_a_demo_in_a_folder_that_is_in_use(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "is not empty" in refused(shell, "demo", "--directory", "full")


def test_a_database_server_that_does_not_answer(shell: Shell) -> None:
    shell.environment = {"PROMPTREG_DATABASE_URL": "postgresql://user:secret@127.0.0.1:9/p"}
    line = refused(shell, "list")
    assert "127.0.0.1" in line
    assert "secret" not in line


def test_an_object_whose_bytes_changed(
    shell: Shell, base: Path, reverse: Path, tmp_path: Path
) -> None:
    (pushed,) = shell.json("push", reverse, "--task", "t", "--base", base, "--no-canary")
    digest = pushed["digest"].removeprefix("sha256:")
    (stored,) = [p for p in shell.objects() if p.name == digest[2:]]
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    line = refused(shell, "pull", "t", "out")
    assert pushed["digest"] in line
    assert not (tmp_path / "out").exists()
    refused(shell, "check", "t", "--base", base)


def test_a_prompt_pushed_again_heals_the_object(
    shell: Shell, base: Path, reverse: Path, tmp_path: Path
) -> None:
    push = ("push", reverse, "--task", "t", "--base", base, "--no-canary")
    (pushed,) = shell.json(*push)
    digest = pushed["digest"].removeprefix("sha256:")
    (stored,) = [p for p in shell.objects() if p.name == digest[2:]]
    stored.write_bytes(b"\0" * stored.stat().st_size)
    shell(*push)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    shell("pull", "t", "out")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_fills(shell: Shell, base: Path, reverse: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine mounts no disk: {mounted.stderr.decode().strip()}")
    try:
        shell.environment = {"PROMPTREG_OBJECTS_URL": str(disk)}
        line = refused(shell, "push", reverse, "--task", "t", "--base", base, "--no-canary")
        assert "is full" in line
        left = [path for path in disk.rglob("*") if path.is_file()]
        assert all(Digest.of(path.read_bytes()).key.endswith(path.name) for path in left)
        assert shell.json("list") == shell.json("base", "list") == []
        shell.environment = {}
        shell("push", reverse, "--task", "t", "--base", base, "--no-canary")
        line = refused(shell, "pull", "t", disk / "out")
        assert "full" in line
        assert not (disk / "out").exists()
        assert not [path for path in disk.rglob("*") if path.is_file() and path not in left]
    finally:
        subprocess.run(["umount", disk], check=True)


PUSH = """
import sys
from pathlib import Path
from promptreg_cli.main import main
path, base = sys.argv[1:3]
sys.stdin.readline()  # all begin at once
main(["push", path, "--task", "t", "--base", base, "--no-canary", "--json"])
"""


def at_once(paths: list[Path], base: Path) -> list[dict[str, object]]:
    """Push each path from a process of its own, all at the same moment."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PUSH, path, base],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in paths
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * len(paths)
    return [json.loads(out) for out, _ in outputs]


def test_the_same_bytes_pushed_by_several_processes_at_once(
    shell: Shell, base: Path, reverse: Path
) -> None:
    shell("base", "add", base)
    pushed = at_once([reverse] * 4, base)
    assert {row["ref"] for row in pushed} == {"t@1"}
    assert sorted(bool(row["created"]) for row in pushed) == [False, False, False, True]


def test_different_bytes_pushed_to_one_task_at_once(
    shell: Shell, base: Path, width: int, tmp_path: Path
) -> None:
    shell("base", "add", base)
    paths = [
        safetensors(tmp_path / f"{index}.safetensors", [float(index)] * width, [1, width])
        for index in range(4)
    ]
    pushed = at_once(paths, base)
    assert {row["ref"] for row in pushed} == {"t@1", "t@2", "t@3", "t@4"}
