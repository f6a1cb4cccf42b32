"""What `trainer doctor` finds, on real folders, ports and processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.recipe import load_recipe
from trainer.tools import doctor
from trainer.tools.doctor import (
    Finding,
    check_collectives,
    check_disk,
    check_ports,
    check_versions,
    check_wandb,
    diagnose,
)


def examined(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "trainer", "doctor", *map(str, arguments)]
    given = {**os.environ, **variables}
    return subprocess.run(words, env=given, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_this_machine_is_examined_and_every_complaint_has_a_remedy(tmp_path: Path) -> None:
    told = examined("--json", "--run", tmp_path / "run")
    findings = json.loads(told.stdout)["findings"]
    assert told.returncode == (1 if any(one["state"] == "fail" for one in findings) else 0)
    assert {"versions", "gloo", "ports", "shared memory", "slurm", "run folder", "data cache", "wandb"} <= {
        one["name"] for one in findings
    }
    assert next(one for one in findings if one["name"] == "gloo")["state"] == "ok"
    assert [one for one in findings if one["state"] != "ok" and not one["remedy"]] == []


def test_the_first_batch_of_a_recipe_is_drawn_from_its_sources(tiny_recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(tiny_recipe, [f"data.cache={tmp_path / 'cache'}"])
    found = {one.name: one for one in diagnose(loaded, tmp_path / "run")}
    assert found["data"].state == "ok"
    assert found["first batch"].state == "ok"
    counts = dict(part.split(" ") for part in found["first batch"].found.partition(";")[0].split(", "))
    assert sum(map(int, counts.values())) == loaded.recipe.mixture.global_batch


def test_a_recipe_with_mistakes_is_told_with_exit_code_2(tiny_recipe: Path) -> None:
    told = examined(tiny_recipe, "--set", "trainig.steps=3")
    assert told.returncode == 2
    assert "trainig" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_cache_without_rights_fails_with_exit_code_1_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = examined(HYBRID_TRAINER_CACHE=str(tmp_path / "file" / "cache"))
    assert told.returncode == 1, told.stdout
    (line,) = [line for line in told.stdout.splitlines() if "data cache" in line]
    assert line.startswith("fail")
    assert "$HYBRID_TRAINER_CACHE" in told.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: a network of one's own takes root")
def test_a_full_port_range_is_a_failure(tmp_path: Path) -> None:
    program = (
        "import socket\n"
        "from trainer.tools.doctor import check_ports\n"
        "held = [socket.create_server(('127.0.0.1', port)) for port in (40000, 40001)]\n"
        "print(*check_ports())\n"
    )
    limits = 'ip link set lo up; echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range; exec "$@"'
    words = ["unshare", "--net", "sh", "-c", limits, "sh", sys.executable, "-c", program]
    told = subprocess.run(words, capture_output=True, text=True)
    assert "state='fail'" in told.stdout, told.stderr
    assert "none can be had" in told.stdout


def test_a_taken_launch_port_is_a_warning_with_the_option_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as held:
        monkeypatch.setattr(doctor, "LAUNCH_PORT", held.getsockname()[1])
        (found,) = check_ports()
    assert found.state == "warn"
    assert "--main_process_port" in found.remedy
    assert [one.state for one in check_ports()] == ["ok"]


def test_a_network_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    found = next(iter(check_collectives()))
    assert found.state == "fail"
    assert "nosuch0" in found.remedy


def test_a_version_out_of_range_fails_and_an_untested_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real metadata, in a folder that comes first on the path."""
    for name, version in (("accelerate", "0.1"), ("torch", "99.0+cpu"), ("deepspeed", "0.1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {one.name: one for one in check_versions()}
    assert found["accelerate"].state == "fail"
    assert "pip install 'accelerate>=" in found["accelerate"].remedy
    assert found["deepspeed"].state == "warn", "an extra may be missing or old"
    assert found["torch"].state == "warn"
    assert found["torch"].found.startswith("99.0+cpu, tested with ")


def test_wandb_online_without_a_login_fails_and_with_a_key_does_not(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    online = load_recipe(tiny_recipe, ["tracking.trackers=[{kind: wandb, mode: online}]"])
    assert [one.state for one in check_wandb(online)] == ["fail"]
    assert [one.state for one in check_wandb(None)] == ["warn"]
    assert [one.state for one in check_wandb(load_recipe(tiny_recipe, ["tracking.trackers=[]"]))] == ["ok"]
    (tmp_path / "netrc").write_text(f"machine {doctor.WANDB_HOST}\n login user\n password {'k' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert [one.state for one in check_wandb(online)] == ["ok"]


def test_too_little_room_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 60)
    (found,) = check_disk({"run folder": tmp_path / "not" / "yet"})
    assert (found.name, found.state) == ("run folder", "fail")


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Finding]:
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "CHECKS", {"gpu": broken})
    found = list(diagnose(None, None))
    assert found[0] == Finding("gpu", "fail", "OSError: no such device", "This is what a run would meet too")
    assert len(found) > 1
