"""Gives up everything that a program does not need, then becomes it. A program, not a module: run by ``sandbox``.

Arguments: the folder that may be written, megabytes of memory, seconds of processor time, the program, folders that
may be read. Landlock (Linux 5.13) takes away all files but those, and seccomp all sockets; the limits are those of the
process. Where anything fails the program does not run.
"""

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
_ALL_BY_VERSION = ((1, 13), (2, 14), (3, 15), (5, 16))  # rights that a version of Landlock knows
_TRUNCATE, _WRITE_FILE = 1 << 14, 1 << 1
_MACHINES = {"x86_64": (0xC000003E, 41, 53), "aarch64": (0xC00000B7, 198, 199)}  # AUDIT_ARCH, socket, socketpair
_IO_URING_SETUP, _X32 = 425, 0x40000000


def _call(libc: ctypes.CDLL, *arguments: object) -> int:
    result: int = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _restrict(writable: str, readable: Sequence[str]) -> None:
    """Only these folders can be reached from here on, by this process and what it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = _call(libc, _CREATE_RULESET, None, 0, 1)
    bits = max(bits for since, bits in _ALL_BY_VERSION if since <= version)
    every = (1 << bits) - 1
    handled = struct.pack("=Q", every)
    ruleset = _call(libc, _CREATE_RULESET, ctypes.c_char_p(handled), len(handled), 0)
    rules = [(folder, _READ) for folder in readable] + [(writable, every), ("/dev/null", 1 << 2 | _WRITE_FILE)]
    for folder, rights in [*rules, ("/dev/urandom", 1 << 2)]:
        if not os.path.exists(folder):  # noqa: PTH110
            continue
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(folder):  # noqa: PTH112
            rights &= 1 << 0 | _WRITE_FILE | 1 << 2 | _TRUNCATE
        _call(libc, _ADD_RULE, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", rights & every, place)), 0)
        os.close(place)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError("no_new_privs")
    _call(libc, _RESTRICT_SELF, ruleset, 0)


def _refuse_sockets() -> None:
    """No socket from here on, but pairs of streams, which programs wake themselves by.

    Neither a network namespace nor Landlock keeps a program from a socket in a folder that it cannot even read (Docker,
    D-Bus, an agent of keys): what listens there would run anything for it.
    """
    architecture, socket, socketpair = _MACHINES[os.uname().machine]
    # Classic BPF over struct seccomp_data (number at 0, architecture at 4, second argument at 24): code, then, else, k
    load, equal, at_least, and_, give = 0x20, 0x15, 0x35, 0x54, 0x06
    program = [
        (load, 0, 0, 4), (equal, 0, 8, architecture),
        (load, 0, 0, 0), (at_least, 6, 0, _X32), (equal, 5, 0, socket), (equal, 4, 0, _IO_URING_SETUP),
        (equal, 0, 4, socketpair), (load, 0, 0, 24), (and_, 0, 0, 0xF), (equal, 1, 0, 1),
        (give, 0, 0, 0x00050000 | 13),  # EACCES
        (give, 0, 0, 0x7FFF0000),  # allowed
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_), 0, 0) != 0:
        raise OSError("seccomp")


def _limit(megabytes: int, seconds: int) -> None:
    for name, most in (
        ("RLIMIT_AS", megabytes << 20),
        ("RLIMIT_CPU", seconds),
        ("RLIMIT_FSIZE", 16 << 20),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_NPROC", 64),
        ("RLIMIT_CORE", 0),
    ):
        resource.setrlimit(getattr(resource, name), (most, most))


def _main(writable: str, megabytes: str, seconds: str, program: str, *readable: str) -> None:
    os.chdir(writable)
    _restrict(writable, readable)
    _refuse_sockets()
    _limit(int(megabytes), int(seconds))
    os.execv(sys.executable, [sys.executable, "-I", "-B", program])


if __name__ == "__main__":
    _main(*sys.argv[1:])
