#!/usr/bin/env python3
"""Writes table.rs, width.rs and groups.rs: facts about system calls, from where they are kept.

    generate.py LIBSECCOMP SYSCALLS_H > /dev/null

LIBSECCOMP is a clone of libseccomp with its tags: src/syscalls.csv has the kernel's names and numbers, and its versions
tell which release first knows a name. SYSCALLS_H is the kernel's include/linux/syscalls.h (Debian: linux-headers-*-common),
whose prototypes tell how wide the arguments are. The groups are those of the installed `systemd-analyze`.
Run rustfmt afterwards.
"""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ARCHES = ["x86_64", "x86", "x32", "aarch64", "arm", "riscv64", "loongarch64", "ppc64", "s390x", "s390"]
RELEASES = ["v2.5.0", "v2.5.2", "v2.5.3", "v2.5.4", "v2.5.5", "v2.6.0"]
NONE = 0xFFFF_FFFF


def csv(repo, revision):
    text = subprocess.run(["git", "-C", repo, "show", f"{revision}:src/syscalls.csv"], check=True, capture_output=True, text=True).stdout
    header, *lines = text.splitlines()
    columns = header.split(",")[1:]
    rows = {}
    for line in lines:
        name, *cells = line.split(",")
        rows[name] = dict(zip(columns, cells))
    return rows


def table(repo):
    newest = csv(repo, "HEAD")
    known = {release: set(csv(repo, release)) for release in RELEASES}
    out = ["//! Names and numbers of system calls. Written by `generate.py`, which says from what; do not edit.", "",
           "/// Where an architecture has no such system call.", f"pub(super) const NONE: u32 = u32::MAX;", "",
           "/// The name, its number on each architecture in the order of [`ARCHES`](super::table), and the release of libseccomp that",
           "/// first knows the name: an index of [`RELEASES`].", "pub(super) type Row = (&'static str, [u32; 10], u8);", "",
           "/// Releases of libseccomp that learned names. 2.5.0 stands for all before it; what the last of them does not know is in",
           "/// none."]
    out.append(f"pub(super) const RELEASES: [(u32, u32, u32); {len(RELEASES)}] = [" + ", ".join("(" + ", ".join(r[1:].split(".")) + ")" for r in RELEASES) + "];")
    rows = []
    for name in sorted(newest):
        numbers = []
        for arch in ARCHES:
            cell = newest[name].get(arch, "PNR")
            numbers.append(str(NONE) if cell in ("PNR", "UNDEF") else cell)
        since = next((i for i, release in enumerate(RELEASES) if name in known[release]), len(RELEASES))
        rows.append(f'    ("{name}", [{", ".join("NONE" if n == str(NONE) else n for n in numbers)}], {since}),')
    out += ["", "/// Sorted by name.", f"pub(super) static ROWS: [Row; {len(rows)}] = [", *rows, "];"]
    (HERE / "table" / "rows.rs").write_text("\n".join(out) + "\n")
    return set(newest)


# What the prototypes do not tell: the lower half of clone's flags counts, which are the second argument on s390.
EXTRA = {"clone": {0: 32, 1: 32}, "ptrace": {1: 32}}
NARROW = {"int": 32, "unsigned int": 32, "unsigned": 32, "u32": 32, "__u32": 32, "__s32": 32, "pid_t": 32, "uid_t": 32, "gid_t": 32,
          "clockid_t": 32, "timer_t": 32, "mqd_t": 32, "key_t": 32, "key_serial_t": 32, "qid_t": 32, "rwf_t": 32, "umode_t": 16,
          "old_uid_t": 16, "old_gid_t": 16, "compat_pid_t": 32, "const int": 32, "const clockid_t": 32}


def widths(header, names):
    text = re.sub(r"/\*.*?\*/", " ", pathlib.Path(header).read_text(), flags=re.S)
    found = {}
    for name, args in re.findall(r"asmlinkage long sys_(\w+)\s*\(([^)]*)\)\s*;", text, flags=re.S):
        name = {"umount": "umount2", "oldumount": "umount", "newstat": "stat", "newlstat": "lstat", "newfstat": "fstat", "sendfile64": "sendfile"}.get(name, name)
        if name not in names:
            continue
        row = {}
        for index, arg in enumerate(re.sub(r"\s+", " ", args).split(",")):
            arg = arg.strip()
            # A parameter without a name is its type alone.
            bare = arg in NARROW or arg.split()[-1] in ("long", "int", "char", "short", "void")
            kind = arg if bare else re.sub(r"\s*\w+$", "", arg).strip()
            if arg.startswith("enum ") and "*" not in arg:
                kind = "int"
            if "*" not in arg and kind in NARROW:
                row[index] = NARROW[kind]
        # An architecture may have an older or a newer order of arguments: the widths of both count.
        found.setdefault(name, {}).update(row)
    for name, row in EXTRA.items():
        found[name] = row
    rows = []
    for name in sorted(found):
        if found[name]:
            rows.append(f'    ("{name}", [{", ".join(str(found[name].get(i, 64)) for i in range(6))}]),')
    out = ["//! How many bits of its arguments a system call looks at. Written by `generate.py`; do not edit.", "",
           "/// Sorted by name; what is not here looks at all 64 bits of each.",
           f"pub(super) static ROWS: [(&str, [u8; 6]); {len(rows)}] = [", *rows, "];"]
    (HERE / "width" / "rows.rs").write_text("\n".join(out) + "\n")


def groups(names):
    text = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], check=True, capture_output=True, text=True).stdout
    sets, about, current = {}, {}, None
    for line in text.splitlines():
        if line.startswith("@"):
            current = line.strip()
            sets[current] = []
        elif line.startswith("    #") and current and current not in about:
            about[current] = line.strip(" #")
        elif line.startswith("    ") and current and not line.strip().startswith("#"):
            sets[current].append(line.strip())
        elif line.strip():
            current = None
    def members(name):
        out = set()
        for item in sets[name]:
            out |= members(item) if item.startswith("@") else {item}
        return out
    out = ["//! systemd's groups of system calls, written out. Written by `generate.py` from `systemd-analyze syscall-filter`; do not", "//! edit.", "",
           "/// Name and members, both sorted.", f"pub(super) static ROWS: [(&str, &[&str]); {len(sets) - ('@known' in sets)}] = ["]
    for name in sorted(sets):
        if name == "@known":
            continue
        listed = sorted(members(name) & names)
        missing = sorted(members(name) - names)
        if missing:
            print(name, "left out, unknown to libseccomp:", missing, file=sys.stderr)
        out.append(f'    ("{name}", &[{", ".join(chr(34) + m + chr(34) for m in listed)}]),')
    out.append("];")
    (HERE / "groups" / "rows.rs").write_text("\n".join(out) + "\n")


for folder in ("table", "width", "groups"):
    (HERE / folder).mkdir(exist_ok=True)
names = table(sys.argv[1])
widths(sys.argv[2], names)
groups(names)
