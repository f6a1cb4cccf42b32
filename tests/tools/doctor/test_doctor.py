"""What `trainer doctor` finds, on real folders, ports and processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.recipe import load_recipe
from trainer.tools.doctor import collectives, disk, wandb
from trainer.tools.doctor.collectives import check_collectives, check_ports
from trainer.tools.doctor.disk import check_folders
from trainer.tools.doctor.examine import diagnose
from trainer.tools.doctor.findings import Finding, Subject
from trainer.tools.doctor.versions import check_versions
from trainer.tools.doctor.wandb import check_wandb

MACHINE = Subject()


def examined(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "trainer", "doctor", *map(str, arguments)]
    given = {**os.environ, **variables}
    return subprocess.run(words, env=given, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_this_machine_is_examined_and_every_complaint_has_a_remedy(tmp_path: Path) -> None:
    result = examined("--json", "--run", tmp_path / "run")
    findings = json.loads(result.stdout)["findings"]
    assert result.returncode == (1 if any(finding["state"] == "fail" for finding in findings) else 0)
    assert {"versions", "gloo", "ports", "shared memory", "slurm", "run folder", "data cache", "wandb"} <= {
        finding["name"] for finding in findings
    }
    assert next(finding for finding in findings if finding["name"] == "gloo")["state"] == "ok"
    assert [finding for finding in findings if finding["state"] != "ok" and not finding["remedy"]] == []


def test_the_first_batch_of_a_recipe_is_drawn_from_its_sources(tiny_recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(tiny_recipe, [f"data.cache={tmp_path / 'cache'}"])
    findings = {finding.name: finding for finding in diagnose(Subject(loaded=loaded, folder=tmp_path / "run"))}
    assert findings["data"].state == "ok"
    assert findings["first batch"].state == "ok"
    counts = dict(part.split(" ") for part in findings["first batch"].result.partition(";")[0].split(", "))
    assert sum(map(int, counts.values())) == loaded.recipe.mixture.global_batch


def test_a_recipe_with_mistakes_ends_with_exit_code_2(tiny_recipe: Path) -> None:
    result = examined(tiny_recipe, "--set", "trainig.steps=3")
    assert result.returncode == 2
    assert "trainig" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cache_without_rights_fails_with_exit_code_1_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = examined(HYBRID_TRAINER_CACHE=str(tmp_path / "file" / "cache"))
    assert result.returncode == 1, result.stdout
    (line,) = [line for line in result.stdout.splitlines() if "data cache" in line]
    assert line.startswith("fail")
    assert "$HYBRID_TRAINER_CACHE" in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: a separate network takes root")
def test_a_full_port_range_is_a_failure(tmp_path: Path) -> None:
    program = (
        "import socket\n"
        "from trainer.tools.doctor.collectives import check_ports\n"
        "from trainer.tools.doctor.findings import Subject\n"
        "held = [socket.create_server(('127.0.0.1', port)) for port in (40000, 40001)]\n"
        "print(*check_ports(Subject()))\n"
    )
    limits = 'ip link set lo up; echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range; exec "$@"'
    words = ["unshare", "--net", "sh", "-c", limits, "sh", sys.executable, "-c", program]
    result = subprocess.run(words, capture_output=True, text=True)
    assert "state='fail'" in result.stdout, result.stderr
    assert "none is available" in result.stdout


def test_a_taken_launch_port_is_a_warning_with_the_option_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as held:
        monkeypatch.setattr(collectives, "LAUNCH_PORT", held.getsockname()[1])
        (port,) = check_ports(MACHINE)
    assert port.state == "warn"
    assert "--main_process_port" in port.remedy
    assert [finding.state for finding in check_ports(MACHINE)] == ["ok"]


def test_a_network_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    finding = next(iter(check_collectives(MACHINE)))
    assert finding.state == "fail"
    assert "nosuch0" in finding.remedy


def test_a_version_out_of_range_fails_and_an_untested_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real metadata, in a folder that comes first on the path."""
    for name, version in (("accelerate", "0.1"), ("torch", "99.0+cpu"), ("deepspeed", "0.1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    findings = {finding.name: finding for finding in check_versions(MACHINE)}
    assert findings["accelerate"].state == "fail"
    assert "pip install 'accelerate>=" in findings["accelerate"].remedy
    assert findings["deepspeed"].state == "warn", "an extra may be missing or old"
    assert findings["torch"].state == "warn"
    assert findings["torch"].result.startswith("99.0+cpu, tested with ")


def test_wandb_online_without_a_login_fails_and_with_a_key_does_not(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    online = load_recipe(tiny_recipe, ["tracking.trackers=[{kind: wandb, mode: online}]"])
    assert [finding.state for finding in check_wandb(Subject(loaded=online))] == ["fail"]
    assert [finding.state for finding in check_wandb(Subject(loaded=None))] == ["warn"]
    assert [
        finding.state for finding in check_wandb(Subject(loaded=load_recipe(tiny_recipe, ["tracking.trackers=[]"])))
    ] == ["ok"]
    (tmp_path / "netrc").write_text(f"machine {wandb.WANDB_HOST}\n login user\n password {'k' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert [finding.state for finding in check_wandb(Subject(loaded=online))] == ["ok"]


def test_too_little_room_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LEAST_FREE", 1 << 60)
    (finding,) = check_folders({"run folder": tmp_path / "not" / "yet"})
    assert (finding.name, finding.state) == ("run folder", "fail")


def test_a_check_that_breaks_is_a_finding_and_the_others_continue() -> None:
    def broken(_subject: Subject) -> list[Finding]:
        raise OSError("no such device")

    findings = list(diagnose(MACHINE, {"gpu": broken, "ports": check_ports}))
    assert findings[0] == Finding("gpu", "fail", "OSError: no such device", "A run would meet this too")
    assert [finding.name for finding in findings] == ["gpu", "ports"]


def test_the_module_of_the_collectives_is_what_the_two_processes_run() -> None:
    """One process alone, with a world of one: it adds up nothing and says so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "1", "RANK": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", collectives.MODULE, "gloo"], env={**os.environ, **given}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "1 + 2 = 1.0" in ended.stderr
